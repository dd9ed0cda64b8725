"""A pool of processes that make runs, several at a time."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from contextlib import suppress

from ..base.errors import OutputError, UsageError, writing
from ..base.files import write_atomically
from .task import Task, finished

PAUSE = 0.2  # seconds between looks at the processes


def check_hours(hours: float) -> None:
    """Raise UsageError for a time that no run could take."""
    if not 0 <= hours < math.inf:
        raise UsageError(f"--hours must be at least 0 (0: no end), got {hours:g}")


class Runner:
    """Makes tasks, several at a time, until all are done or the time is over."""

    def __init__(self, args, judge: dict | None, after, say=print):
        """after: called whenever runs have ended. say: takes one line per run. unwritten: whether the last call of
        `after` could not write."""
        self.unwritten = False
        self.args, self.judge, self.after, self.say, self.failures = args, judge, after, say, []
        self.end = time.monotonic() + 3600 * args.hours if args.hours else float("inf")
        self.running: dict[subprocess.Popen, tuple[Task, float]] = {}
        self.longest = 0.0  # seconds, of the runs so far

    def start(self, task: Task) -> None:
        folder, args = task.folder(self.args.runs), self.args
        request = {
            "config": task.config,
            "whole": task.whole,
            "oracle": task.oracle,
            "captions": task.captions,
            "clips": task.clips,
            "judge": self.judge,
            "device": args.device,
            "threads": args.threads,
            "processes": args.processes,
            "began": time.time(),
        }
        environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "task.json", (json.dumps(request, indent=1) + "\n").encode())
            log = open(folder / "log.txt", "a")  # noqa: SIM115 (closed below)
        with log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dreamfusion_ngp.experiments.run_task", str(folder.resolve())],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self.running[process] = task, time.monotonic()

    def settle(self, done: int, total: int) -> int:
        """Collect the runs that have ended. Returns how many."""
        ended = [process for process in self.running if process.poll() is not None]
        for number, process in enumerate(ended, 1):
            task, began = self.running.pop(process)
            seconds = time.monotonic() - began
            self.longest = max(self.longest, seconds)
            # The record is the last thing that a run writes: if it exists, the exit status does not matter.
            record = finished(task, self.args.runs, self.judge["digest"] if self.judge else None)
            if record is None:
                self.failures.append(task)
            self.say(f"[{done + number}/{total}] {task.label}: {self.outcome(task, record)}, {seconds:.0f} s")
        if ended:
            self.report()
        return len(ended)

    def report(self) -> None:
        """Call `after`. What it cannot write is tried again after the next run, and stops none."""
        self.unwritten = False
        try:
            self.after()
        except OutputError as error:
            self.unwritten = True
            self.say(f"{error}; going on without it")

    def outcome(self, task: Task, record: dict | None) -> str:
        if record is None:
            lines = []
            with suppress(OSError):
                lines = (task.folder(self.args.runs) / "log.txt").read_text(errors="replace").strip().splitlines()
            return f"was not made ({lines[-1] if lines else 'no message'})"
        figures = record["figures"]
        if "volumetric_iou" not in figures:
            return record["failed"] or f"{figures['pieces']} pieces"
        return record["failed"] or f"IoU {figures['volumetric_iou']:.2f}, silhouettes {figures['silhouette_iou']:.2f}"

    def make_all(self, todo: list[Task], total: int) -> bool:
        """Make the tasks of `todo`. Returns whether all were tried; runs that exceed the time are stopped."""
        pending, done = list(todo), total - len(todo)
        try:
            while pending or self.running:
                while (
                    pending and len(self.running) < self.args.processes and time.monotonic() + self.longest < self.end
                ):
                    self.start(pending.pop(0))
                if not self.running or time.monotonic() > self.end:
                    return False
                time.sleep(PAUSE)
                done += self.settle(done, total)
            return True
        finally:
            for process in self.running:
                process.kill()
                process.wait()
