"""Figures of benchmark results."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.analysis.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    new_figure,
    styled,
    to_png,
)

LOOKS = {
    "V1": (VERMILION, "s"),
    "associative": (ORANGE, "^"),
    "chunked": (GREEN, "D"),
    "sequential": (BLUE, "o"),
    "native": (BLACK, "P"),
    "pallas": (BLACK, "v"),
    "copy": (GREY, ""),
}


def draw_scan_cost(rows: list[dict[str, Any]], path: Path) -> None:
    """Writes cost against length of the cases L1, L4, ... as a PNG, if two or more are there."""
    rows = [r for r in rows if r["case"] == f"L{r['steps']}" and "unavailable" not in r]
    if len({r["steps"] for r in rows}) > 1:
        path.write_bytes(to_png(scan_cost(rows)))
        print(f"wrote {path}")


@styled
def scan_cost(rows: list[dict[str, Any]]) -> Figure:
    """Draws processor time against the number of steps, one panel for each pass."""
    figure = new_figure(3.6)
    passes = list(dict.fromkeys(r["pass"] for r in rows))
    panels = figure.subplots(1, len(passes), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, passes, strict=True):
        _draw_pass(axes, [r for r in rows if r["pass"] == name])
        axes.set_title(name)
        axes.set_xlabel("time steps")
    panels[0].set_ylabel("processor time (ms)")
    panels[0].legend()
    return figure


def _draw_pass(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for backend, (colour, marker) in LOOKS.items():
        points = sorted((r["steps"], r["cpu_ms"]) for r in rows if r["backend"] == backend)
        if points:
            style = "--" if backend == "copy" else "-"
            axes.plot(*zip(*points, strict=True), style, color=colour, marker=marker, label=backend)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
