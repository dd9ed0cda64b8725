"""A distillation rule of your own: classifier score distillation (Yu et al. 2023, "Text-to-3D with classifier score
distillation", arXiv 2310.19415), which keeps of a guided prediction what the text adds to it:

    gradient on x = w(t) (eps_hat(z_t; y, t) - eps_hat(z_t; t)),    z_t = alpha_t x + sigma_t eps

    python examples/own_rule.py --prompt "a red mug" --steps 100

A rule is a flat function with the arguments of `guidance.protocol.Distill`; any model that can be loaded takes it. The
package has this one, too, with a negative text: `--rule csd`.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from dreamfusion_ngp.config.presets import preset
from dreamfusion_ngp.export.meshes import export_mesh
from dreamfusion_ngp.guidance.load import load_guidance
from dreamfusion_ngp.guidance.schedule import add_noise, weight
from dreamfusion_ngp.optimise.loop import train
from dreamfusion_ngp.optimise.volume import VolumeStage


def csd(denoiser, x, noise, t, views, config, moment):
    """x, noise: (B, C, h, w).  t: (B,) timesteps.  moment: the run's progress, random numbers.  Returns the gradient on
    x."""
    alpha, sigma = denoiser.schedule.coefficients(t, x)
    z = add_noise(x, noise, alpha, sigma)
    conditional, unconditional = denoiser.answers(z, t, views, ("text", "empty"))
    return weight(alpha, sigma, config.weighting) * (conditional - unconditional)


def main(argv=None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", default="a red mug")
    parser.add_argument("--guidance", default="toybox", help="the model: a folder, short name or hub id")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--resolution", type=int, default=32, help="pixels a side of the views")
    parser.add_argument("-o", "--out", type=Path, default=Path("outputs/own_rule"))
    args = parser.parse_args(argv)
    config = replace(preset("fast"), prompt=args.prompt, steps=args.steps)
    config = replace(config, render=replace(config.render, resolution=args.resolution))
    config = replace(config, guidance=replace(config.guidance, model=args.guidance))
    stage = VolumeStage(config, "cpu")
    train(stage, load_guidance(config, "cpu", csd), lambda record: None)
    args.out.mkdir(parents=True, exist_ok=True)
    field = stage.field
    return Path(export_mesh(field.density, field.albedo, field.bound, args.out, resolution=64)["paths"]["glb"])


if __name__ == "__main__":
    print(main())
