"""The progress of an optimisation on the terminal."""

from __future__ import annotations

LINE_INTERVAL = 15.0  # seconds between lines where there is no terminal


class TerminalProgress:
    """An observer of a run (`runs.recorder.Observer`): a progress bar on a terminal, elsewhere a line at intervals. The
    bar disappears with the last step, or at the end of the block."""

    def __init__(self):
        self.bar = progress_bar()
        self.task, self.line_at = None, 0.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.stop()

    def __call__(self, progress) -> None:
        if self.task is None:
            self.bar.start()
            self.task = self.bar.add_task("", total=progress.steps)
        text = figures_text(progress)
        self.bar.update(self.task, completed=progress.step, description=text)
        steps = progress.step - progress.first
        due = steps <= 1 or progress.ending or progress.seconds - self.line_at > LINE_INTERVAL
        if not self.bar.console.is_terminal and steps and due:
            self.line_at = progress.seconds
            rate = steps / max(progress.seconds, 1e-9)
            left = (progress.steps - progress.step) / max(rate, 1e-9)
            print(
                f"step {progress.step}/{progress.steps}  {rate:.1f} steps/s  "
                f"{int(left // 60)}:{int(left % 60):02d} left  {text}",
                flush=True,
            )
        if progress.ending:
            self.bar.stop()


def exit_code(result) -> int:
    """The exit code of a `RunResult`: 0, or 128 plus the number of the signal that ended the run, as in shells."""
    return 128 + result.signal if result.signal else 0


def figures_text(progress) -> str:
    """The figures of the last step in one line; "" before the first."""
    if not progress.figures:
        return ""
    return (
        f"loss {progress.figures['sds']:.2e}  opacity {progress.figures['opacity']:.2f}  "
        f"occupied {progress.occupied:.1%}  {progress.preview}"
    )


def progress_bar():
    """A bar with step, rate and time left; silent where the output is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console()
    return Progress(
        TextColumn("step"),
        MofNCompleteColumn(),
        BarColumn(30),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=console,
        disable=not console.is_terminal,
    )
