"""Judge the embedded prior's samples and write docs/toybox/prior.md; see --help."""

from pathlib import Path

from dreamfusion_ngp.experiments.prior_report import main

if __name__ == "__main__":
    main(repository=Path(__file__).resolve().parents[1])
