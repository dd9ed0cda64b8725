"""Write benches/RESULTS.md and its plots; see --help."""

from pathlib import Path

from dreamfusion_ngp.bench.report import main

if __name__ == "__main__":
    main(repository=Path(__file__).resolve().parents[1])
