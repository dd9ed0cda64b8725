"""Whether plots can be compared with the committed ones."""

from pathlib import Path


def pinned_matplotlib() -> bool:
    """Whether the installed matplotlib is that of constraints.txt: another one may place letters elsewhere."""
    import matplotlib

    pins = (Path(__file__).parents[2] / "constraints.txt").read_text().splitlines()
    return f"matplotlib=={matplotlib.__version__}" in pins
