"""Plots for the reports by matplotlib (extra `bench`), as reproducible SVG."""

from __future__ import annotations

import io
from typing import Any

from ..base.errors import UsageError

SIZE = (8.6, 4.3)  # inches
COLORS = (
    "#1f77b4",
    "#d62728",
    "#2ca02c",
    "#9467bd",
    "#8c564b",
    "#ff7f0e",
    "#17becf",
    "#7f7f7f",
    "#e377c2",
    "#bcbd22",
    "#000000",
    "#98df8a",
    "#aec7e8",
    "#ffbb78",
)
# svg.fonttype "none": text stays text.
STYLE: dict[Any, Any] = {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "dreamfusion_ngp"}


def new_plot(title: str, x_label: str, y_label: str):
    """Empty matplotlib Axes with a grid. Raises UsageError where matplotlib is not installed."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("plots need matplotlib: pip install 'dreamfusion_ngp[bench]'") from None
    with rc_context(STYLE):
        plot = Figure(figsize=SIZE, layout="constrained").add_subplot(xlabel=x_label, ylabel=y_label)
        plot.set_title(title, loc="left")
    plot.set_prop_cycle(color=COLORS)
    plot.grid(color="#ddd")
    plot.set_axisbelow(True)
    return plot


def svg(plot) -> str:
    """The plot with a legend of its labelled series beside it, as the text of an SVG file."""
    from matplotlib import rc_context

    with rc_context(STYLE), io.BytesIO() as file:
        if plot.get_legend_handles_labels()[1]:
            plot.figure.legend(loc="outside right upper", frameon=False)
        plot.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        lines = file.getvalue().decode().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"
