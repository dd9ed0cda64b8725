"""Shared by all tests: they run against the installed package, wherever pytest is started."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# An ordinary install has its native module in site-packages; the source tree has none, so it must not be imported from
# there: not here (python -m pytest puts the working directory first), and not in the processes that tests start.
os.environ["PYTHONSAFEPATH"] = "1"
if not any((ROOT / "dreamfusion_ngp").glob("_C*.so")):
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
