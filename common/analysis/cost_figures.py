"""Figures of what a computation costs."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from common.analysis import style
from common.analysis.causal_figures import LOOKS


@style.styled
def cost_over_length(
    lengths: Sequence[int], costs: Mapping[str, Mapping[str, Sequence[float]]]
) -> Figure:
    """Draws several kinds of cost over the length of a sequence, one panel each, on log scales.

    Args:
        lengths: of the sequences.
        costs: by kind of cost, by method the cost at each length.
    """
    figure = style.new_figure(3.0)
    panels = figure.subplots(1, len(costs), squeeze=False)[0]
    for axes, (kind, methods) in zip(panels, costs.items(), strict=True):
        for (name, values), (colour, line, marker) in zip(methods.items(), LOOKS, strict=False):
            axes.plot(lengths, values, color=colour, linestyle=line, marker=marker, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(kind, fontsize=9)
        axes.set_xlabel("time steps")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
