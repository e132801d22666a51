"""Figures of causal tests: what the answer becomes when something is taken away."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.analysis import style
from common.array_types import Float

LOOKS = (
    (style.BLUE, "-", "o"),
    (style.VERMILION, "--", "s"),
    (style.GREEN, ":", "^"),
    (style.ORANGE, "-.", "D"),
)
"""Colour, line and marker of one curve after the other."""

Curve = tuple[Sequence[float], Sequence[float], Sequence[float]]
"""Values with the lower and upper ends of their intervals."""


@style.styled
def curves(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Curve]]],
    label: str,
    whole: float | None = None,
    chance: float | None = None,
) -> Figure:
    """Draws shares with their intervals over numbers that were varied, one panel for each number.

    Args:
        panels: by what was varied, its values and by name a curve over them.
        label: what the shares are of.
        whole: the share when nothing is taken away.
        chance: the share for guessing.
    """
    figure = style.new_figure(3.4)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (varied, (positions, named)) in zip(grid, panels.items(), strict=True):
        for (name, curve), look in zip(named.items(), LOOKS, strict=False):
            _curve(axes, positions, curve, name, look)
        for level, name, line in ((whole, "nothing changed", "-"), (chance, "chance", ":")):
            if level is not None:
                axes.axhline(level, color=style.GREY, linewidth=1.2, linestyle=line, label=name)
        axes.set(xlabel=varied, ylim=(-0.03, 1.03))
        if all(float(position).is_integer() for position in positions):
            axes.set_xticks(positions)
    grid[0].set_ylabel(label)
    grid[0].yaxis.set_major_formatter(style.percent_axis())
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _curve(
    axes: Axes, positions: Sequence[float], curve: Curve, name: str, look: tuple[str, str, str]
) -> None:
    (value, low, high), (colour, line, marker) = curve, look
    axes.plot(positions, value, color=colour, linestyle=line, marker=marker, label=name)
    axes.fill_between(positions, low, high, color=colour, alpha=0.15, linewidth=0)


@style.styled
def knockouts(groups: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> Figure:
    """Draws the accuracy that is left when parts are taken away, one panel for each kind of part.

    Args:
        groups: by kind of part, by part the accuracy and its interval. What is first in the first
            group is the accuracy when nothing is taken away; all panels show it as a line.
    """
    heights = [len(parts) for parts in groups.values()]
    figure = style.new_figure(0.27 * sum(heights) + 0.42 * len(groups) + 0.5)
    panels = figure.subplots(len(groups), 1, sharex=True, height_ratios=heights, squeeze=False)
    whole = next(iter(next(iter(groups.values())).values()))[0]
    for axes, (kind, parts) in zip(panels[:, 0], groups.items(), strict=True):
        _points(axes, parts, whole)
        axes.set_title(kind)
    panels[-1, 0].set_xlabel("accuracy")
    panels[-1, 0].xaxis.set_major_formatter(style.percent_axis())
    return figure


def _points(axes: Axes, parts: Mapping[str, tuple[float, float, float]], whole: float) -> None:
    for i, (value, low, high) in enumerate(parts.values()):
        lost = high < whole
        colour = style.VERMILION if lost else style.BLUE
        axes.plot([value, whole], [i, i], color=colour, linewidth=1, alpha=0.5)
        axes.plot([low, high], [i, i], color=colour, linewidth=3, alpha=0.35)
        axes.plot([value], [i], "s" if lost else "o", color=colour)
        text = f"{100 * value:.1f} %"
        axes.text(1.01, i, text, va="center", fontsize=8, transform=axes.get_yaxis_transform())
    axes.axvline(whole, color=style.GREY, linewidth=1.2, zorder=0)
    axes.axvline(0.5, color=style.GREY, linewidth=1.2, linestyle=":", zorder=0)
    axes.set_yticks(range(len(parts)), list(parts))
    axes.set(ylim=(len(parts) - 0.5, -0.5), xlim=(0.4, 1.02))
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")


@style.styled
def traces(
    values: Mapping[str, Float[np.ndarray, "T p"]], label: str, ends: tuple[str, str]
) -> Figure:
    """Draws what is found along a path at every step, one panel for each path, on one scale.

    Args:
        values: by name of the path, the value at each step and point; a path of one point stands
            for a mean.
        label: what the values are.
        ends: what is at the first and at the last point.
    """
    figure = style.new_figure(3.2)
    widths = [table.shape[1] for table in values.values()]
    panels = figure.subplots(1, len(values), sharey=True, squeeze=False, width_ratios=widths)[0]
    high = max(float(table.max()) for table in values.values())
    image = None
    for axes, (name, table) in zip(panels, values.items(), strict=True):
        axes.grid(False)
        steps, points = table.shape
        image = axes.imshow(table, cmap=style.ENERGY, vmin=0, vmax=high, aspect="auto")
        for (step, point), value in np.ndenumerate(table):
            ink = "white" if value < 0.6 * high else style.BLACK
            axes.text(point, step, f"{value:.2g}", ha="center", va="center", fontsize=7, color=ink)
        names = [ends[0], *[str(i + 1) for i in range(1, points - 1)], ends[1]]
        axes.set_xticks(range(points), names if points > 1 else ["mean"])
        axes.set_yticks(range(steps), [str(i + 1) for i in range(steps)])
        axes.set(title=name, xlabel="place along the contour" if points > 1 else "")
    panels[0].set_ylabel("time step")
    assert image is not None
    figure.colorbar(image, ax=panels, label=label, fraction=0.03, pad=0.01)
    return figure


@style.styled
def answers_over_time(
    probability: Float[np.ndarray, "b T"], labels: np.ndarray, names: tuple[str, str]
) -> Figure:
    """Draws what a model would answer after each step: every image as a line, and each kind's mean.

    Args:
        probability: of label 1.
        labels: (b,) 0 or 1.
        names: what label 0 and label 1 mean.
    """
    figure = style.new_figure(3.2)
    left, right = figure.subplots(1, 2)
    time = np.arange(1, probability.shape[1] + 1)
    for label in (0, 1):
        chosen = probability[labels == label]
        colour, marker = style.CLASS_COLOURS[label], style.CLASS_MARKERS[label]
        left.plot(time, chosen[:40].T, color=colour, alpha=0.18, linewidth=0.8)
        left.plot(time, chosen.mean(0), color=colour, marker=marker, label=names[label])
    left.set(title="Probability of a connection", ylim=(-0.03, 1.03))
    right.plot(
        time, ((probability > 0.5) == (labels == 1)[:, None]).mean(0), "o-", color=style.BLACK
    )
    right.axhline(0.5, color=style.GREY, linewidth=1.2, linestyle=":", label="chance")
    right.set(title="Share of right answers", ylim=(0.4, 1.03))
    for axes in (left, right):
        axes.set_xlabel("time step")
        axes.yaxis.set_major_formatter(style.percent_axis())
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.legend(loc="best")
    return figure
