"""Write docs/evaluation.md and its figures; see --help."""

from pathlib import Path

from dreamfusion_ngp.experiments.report import main

if __name__ == "__main__":
    main(repository=Path(__file__).resolve().parents[1])
