"""Compare settings on toys whose true shapes are known; see --help."""

import sys
from pathlib import Path

from dreamfusion_ngp.experiments.ablation import main

if __name__ == "__main__":
    sys.exit(main(repository=Path(__file__).resolve().parents[1]))
