"""`dreamfusion-ngp train-prior ARGUMENTS` with the settings of a tiny run, as a program."""

import sys
from dataclasses import replace

from support.tiny_runs import TINY_PRIOR

from dreamfusion_ngp import cli
from dreamfusion_ngp.cli import train_prior


def training_config(args, *defaults):
    return replace(TINY_PRIOR, images=args.images, chunk=1, views_per_class=1, report_every=1)


if __name__ == "__main__":
    train_prior.training_config = training_config
    sys.exit(cli.main(["train-prior", *sys.argv[1:]]))
