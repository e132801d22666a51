"""Figures of how vision enters language: gates over training, scaling against shifting."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.analysis import style
from common.array_types import Float

LINES = ("-", "--", ":", "-.")
COLOURS = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE)


@style.styled
def gates_over_training(
    panels: Mapping[str, Mapping[str, tuple[Sequence[int], Sequence[float]]]],
) -> Figure:
    """Draws the values of gates over the training steps, one panel for each model.

    Args:
        panels: by model and gate, steps and values.
    """
    figure = style.new_figure(2.6 * len(panels) + 0.2)
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (model, gates) in zip(grid, panels.items(), strict=True):
        for number, (name, (steps, values)) in enumerate(gates.items()):
            colour, line = COLOURS[number % 4], LINES[number // 4 % 4]
            axes.plot(steps, values, color=colour, linestyle=line, label=name)
        axes.axhline(0, color=style.GREY, linewidth=0.9)
        axes.set(title=model, ylabel="tanh of the gate")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    grid[-1].set_xlabel("training step")
    return figure


@style.styled
def scaling_and_shifting(
    types: Sequence[str],
    layers: Mapping[str, tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]],
) -> Figure:
    """Draws how much FiLM layers scale and shift, relative to what they are given.

    Args:
        types: k kinds of examples.
        layers: by layer, sizes of scaling and shifting for each kind.
    """
    figure = style.new_figure(2.7)
    grid = figure.subplots(1, len(layers), squeeze=False, sharey=True)[0]
    for axes, (layer, sizes) in zip(grid, layers.items(), strict=True):
        _bars(axes, types, sizes)
        axes.set_title(layer)
    grid[0].set_ylabel("size relative to the input")
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _bars(axes: Axes, types: Sequence[str], sizes: tuple[np.ndarray, np.ndarray]) -> None:
    places = np.arange(len(types))
    for offset, values, colour, name in (
        (-0.2, sizes[0], style.BLUE, "scaling, (\N{GREEK SMALL LETTER GAMMA} - 1) x"),
        (0.2, sizes[1], style.ORANGE, "shifting, \N{GREEK SMALL LETTER BETA}"),
    ):
        axes.bar(places + offset, values, 0.4, color=colour, label=name)
    axes.set_xticks(places, types, rotation=60, ha="right", fontsize=8)
