"""Write benches/RESULTS.md and its plots; see --help."""

import sys
from pathlib import Path

from dreamfusion_ngp.base.errors import DreamfusionError
from dreamfusion_ngp.bench.report import main

if __name__ == "__main__":
    try:
        main(repository=Path(__file__).resolve().parents[1])
    except DreamfusionError as error:
        sys.exit(f"error: {error}")
