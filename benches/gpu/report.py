"""Puts the stages of gpu_check.sh into one JSON: python benches/gpu/report.py FOLDER REPOSITORY. Needs only Python.

FOLDER/stages/NAME holds name, status, exit, seconds and command, one a line; FOLDER/stages/NAME.log its output;
FOLDER/NAME*.json what it measured. Called after every stage, so that the JSON is there whatever stops the run.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path


def output_of(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=cwd)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def machine() -> dict:
    facts = "name,driver_version,memory.total,compute_cap,clocks.max.sm"
    gpu = output_of("nvidia-smi", f"--query-gpu={facts}", "--format=csv")
    torch = output_of(sys.executable, "-c", "import torch; print(torch.__version__, torch.version.cuda)")
    cpu = (
        next(
            (
                line.partition(":")[2].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")
            ),
            "",
        )
        if Path("/proc/cpuinfo").exists()
        else ""
    )
    return {
        "gpu": gpu.splitlines(),
        "torch": torch,
        "nvcc": output_of("nvcc", "--version").splitlines()[-2:],
        "python": platform.python_version(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.platform(),
    }


def measured(folder: Path, name: str) -> dict:
    """Every JSON file that the stage wrote; one that was cut short is kept as text."""
    found = {}
    for path in sorted(folder.glob(f"{name}*.json")):
        text = path.read_text(encoding="utf-8", errors="replace")
        try:
            found[path.stem] = json.loads(text)
        except ValueError:
            found[path.stem] = {"unreadable": text[-2000:]}
    return found


def stage(folder: Path, path: Path) -> dict:
    lines = dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines() if "=" in line)
    log = path.with_suffix(".log")
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:] if log.exists() else []
    seconds = float(lines.get("seconds", 0))
    return {**lines, "seconds": seconds, "measured": measured(folder, path.stem), "log_tail": tail}


def main() -> None:
    folder, repository = Path(sys.argv[1]), Path(sys.argv[2])
    # stages are numbered in the order in which they began
    stages = [stage(folder, path) for path in sorted((folder / "stages").glob("*.stage"))]
    facts = folder / "machine.json"
    if not facts.exists():
        facts.write_text(json.dumps(machine(), indent=1), encoding="utf-8")
    result = {
        "commit": output_of("git", "rev-parse", "HEAD", cwd=repository),
        "changed_files": output_of("git", "status", "--porcelain", cwd=repository).splitlines()[:50],
        "machine": json.loads(facts.read_text(encoding="utf-8")),
        "passed": bool(stages) and all(s.get("status") in ("passed", "skipped") for s in stages),
        "finished": (folder / "finished").exists(),
        "stages": stages,
    }
    temporary = folder / "gpu_check.json.part"
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder / "gpu_check.json")


if __name__ == "__main__":
    main()
