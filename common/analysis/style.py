"""One look for all figures: colours that everyone can tell apart, readable on paper too."""

import functools
import io
from collections.abc import Callable
from typing import Any, ParamSpec

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

P = ParamSpec("P")

# Okabe and Ito (2008): distinct in colour-blind vision, and in lightness for black-and-white print.
BLACK, GREY = "#1a1a1a", "#8c8c8c"
BLUE, ORANGE, VERMILION, GREEN = "#0072B2", "#E69F00", "#D55E00", "#009E73"
CLASS_COLOURS = (VERMILION, BLUE)
CLASS_MARKERS = ("s", "o")
SIGNED, ENERGY, INK = "RdBu_r", "magma", "gray"

WIDTH = 8.0
"""Width of every figure in inches; the height is the figure's own."""

SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": BLACK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "figure.titlesize": 11,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "image.interpolation": "nearest",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "savefig.dpi": 150,
    "xtick.color": GREY,
    "xtick.labelcolor": BLACK,
    "xtick.labelsize": 9,
    "ytick.color": GREY,
    "ytick.labelcolor": BLACK,
    "ytick.labelsize": 9,
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Makes a function draw its figure in the project's style, whatever the caller's settings."""

    @functools.wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(SETTINGS):
            return draw(*args, **kwargs)

    return in_style


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Returns an empty figure (inches) that belongs to no window and no global list."""
    return Figure(figsize=(width, height), layout="constrained")


def percent_axis() -> PercentFormatter:
    """Returns a tick formatter that writes the share 0.5 as 50 %."""
    return PercentFormatter(1.0, decimals=0, symbol=" %")


def to_png(figure: Figure) -> bytes:
    """Renders a figure at 150 dots per inch."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(SETTINGS):
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def show_image(axes: Axes, image, **options):
    """Draws an image without ticks, in a thin frame; returns matplotlib's image."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.6, color=GREY)
    return axes.imshow(image, **options)
