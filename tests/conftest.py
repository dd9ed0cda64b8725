"""Shared by all tests: they run against the installed package, wherever pytest is started."""

import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# An ordinary install has its native module in site-packages; the source tree has none, so the package must not come
# from there: not here (python -m pytest puts the working directory first), and not in the processes that tests start.
os.environ["PYTHONSAFEPATH"] = "1"
elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
if PathFinder.find_spec("dreamfusion_ngp", elsewhere):
    sys.path[:] = elsewhere
