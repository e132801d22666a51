"""Figures of attention: maps of all heads, where the mass lies, what a short convolution does."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import MaxNLocator, NullLocator, ScalarFormatter

from common.analysis import style
from common.analysis.causal_figures import LOOKS
from common.array_types import Float

MOST_COLUMNS = 8
MOST_LABELS = 32
MOST_POINTS = 128
CONTRAST = 0.5
"""Exponent of the colours of weights: with many keys most weights are small."""

MARGIN = 0.28
"""Room at the left of maps for the word 'query' and a gap after it, inches."""

LETTER, LINE = 0.085, 0.17
"""About the width of a letter and the height of a line in a name of a layer, inches."""


@style.styled
def attention_maps(
    weights: Mapping[str, Float[np.ndarray, "heads q s"]], labels: Sequence[str] | None = None
) -> Figure:
    """Draws the attention of every head of every layer on one example, all on one scale.

    Rows of a map are queries, tokens that attend, from top to bottom; columns are keys, tokens
    attended to. Colours go with the square root of the weight, from 0 to the largest one.

    Args:
        weights: of each layer by its name.
        labels: the tokens, written at the outer maps where there are up to 32 of them.
    """
    most = MOST_COLUMNS if len(weights) > 1 else MOST_COLUMNS // 2
    rows = [(name, part) for name, heads in weights.items() for part in _rows(len(heads), most)]
    columns = max(len(heads) for _, heads in rows)
    named = labels is not None and len(labels) <= MOST_LABELS
    beside, above = (2.0, 0.85) if named else (1.45, 0.4)
    side = min(3.0, (style.WIDTH - beside) / columns)
    names = {name: textwrap.wrap(name, max(1, int(side / LETTER))) for name in weights}
    beside += LINE * (max(map(len, names.values())) - 1)
    side = min(3.0, (style.WIDTH - beside) / columns)
    size = len(rows) * (side + 0.22) + above, columns * side + beside
    figure = style.new_figure(*size)
    grid = figure.subplots(len(rows), columns, squeeze=False, sharex=True, sharey=True)
    high = max(float(np.max(heads)) for heads in weights.values())
    norm, image = PowerNorm(CONTRAST, 0.0, high), None
    for (name, heads), line in zip(rows, grid, strict=True):
        for axes in line[len(heads) :]:
            axes.set_axis_off()
        for head, axes in zip(heads, line, strict=False):
            image = style.show_image(axes, weights[name][head], cmap=style.ENERGY, norm=norm)
            axes.set_title(f"head {head + 1}", fontsize=8, fontweight="normal", pad=3)
        line[0].set_ylabel("\n".join(names[name]) if heads.start == 0 else "")
    if labels is not None and named:
        _write_tokens(grid, labels)
    figure.supxlabel("key", fontsize=9)
    margin = MARGIN / size[1]
    figure.set_layout_engine("constrained", rect=(margin, 0, 1 - margin, 1))
    figure.supylabel("query", x=0.06 / size[1], fontsize=9)
    assert image is not None
    figure.colorbar(image, ax=grid, label="weight", fraction=0.15 / size[1], aspect=30, pad=0.01)
    return figure


def _rows(heads: int, most: int) -> list[range]:
    """Splits the heads of a layer into rows of equal length, the last one shorter at most."""
    count = -(-heads // most)
    length = -(-heads // count)
    return [range(start, min(start + length, heads)) for start in range(0, heads, length)]


def _write_tokens(grid: np.ndarray, labels: Sequence[str]) -> None:
    size = 7 if len(labels) <= 16 else 5
    labels = [_printable(label) for label in labels]
    for axes in grid[-1]:
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
    for axes in grid[:, 0]:
        axes.set_yticks(range(len(labels)), labels, fontsize=size)
    for axes in grid.flat:
        axes.tick_params(length=0, pad=2)


def _printable(label: str) -> str:
    """Returns a label that the font can draw: signs for white space, boxes for what it lacks."""
    known = get_font(findfont("DejaVu Sans")).get_charmap()
    shown = label.replace("\n", "\N{PILCROW SIGN}").replace("\t", "\N{RIGHTWARDS ARROW}")
    shown = "".join(x if ord(x) in known else "\N{WHITE SQUARE}" for x in shown)
    return shown.replace("$", r"\$")  # else a formula begins


@style.styled
def offset_profile(
    offsets: Sequence[int],
    profiles: Mapping[str, Float[np.ndarray, "heads offsets"]],
    even: Float[np.ndarray, "offsets"] | None = None,
) -> Figure:
    """Draws where heads attend, relative to the last occurrence of the current token.

    One panel for each model or layer, one line for each head; the head with the most mass at one
    offset is drawn thick and named. The dashed line is at +1, the textbook's induction.

    Args:
        offsets: as given to `attention_by_offset`.
        profiles: what it returned, (heads, offsets) by name of the model or layer.
        even: what a head that attends evenly to all it may see would have.
    """
    columns = 2 if len(profiles) in (2, 4) else min(3, len(profiles))
    rows = -(-len(profiles) // columns)
    figure = style.new_figure(2.3 * rows + 0.35)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (name, profile) in zip(grid.flat, profiles.items(), strict=False):
        _profile(axes, offsets, profile)
        if even is not None:
            axes.plot(offsets, even, ":", color=style.BLACK, linewidth=1.4, label="even")
        axes.legend(loc="upper right", handlelength=1.6)
        axes.set_title(textwrap.fill(name, 84 // columns), fontsize=9)
        axes.yaxis.set_major_formatter(style.percent_axis())
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        axes.tick_params(labelbottom=True)
    for axes in grid.flat[len(profiles) :]:
        axes.set_axis_off()
    grid[0, 0].set_ylim(-0.03, 1.03)
    figure.supxlabel("offset from the last occurrence of the current token", fontsize=10)
    figure.supylabel("mean attention", fontsize=10)
    return figure


def _profile(axes: Axes, offsets: Sequence[int], profile: np.ndarray) -> None:
    axes.axvline(1, color=style.GREY, linestyle="--", linewidth=1, zorder=0)
    best = int(np.nanmax(profile, axis=1).argmax()) if np.isfinite(profile).any() else 0
    for head, line in enumerate(profile):
        if head != best:
            axes.plot(offsets, line, color=style.BLUE, linewidth=1, alpha=0.55)
    axes.plot(offsets, profile[best], "o-", color=style.VERMILION, label=f"head {best + 1}")


@style.styled
def kernel_profile(
    kernel: Float[np.ndarray, "k c"], offsets: Sequence[int] | None = None, title: str = ""
) -> Figure:
    """Draws the weights of a depthwise convolution over tokens, by offset and by channel.

    On the left the mean over channels with one standard deviation to each side, and the mean size;
    on the right every channel's weights on one scale around zero, channels in order of the offset
    of their largest weight. Offsets above 0 are future tokens, on a grey ground.

    Args:
        kernel: the weights.
        offsets: token that each of the k weights meets, 0 for the current one; -(k - 1) to 0 where
            None, as in `causal_conv`.
        title: above the figure.
    """
    offsets = list(range(1 - len(kernel), 1) if offsets is None else offsets)
    figure = style.new_figure(3.3)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    mean, spread = kernel.mean(1), kernel.std(1)
    if offsets[-1] > 0:
        first = max(0.5, offsets[0] - 0.5)
        left.axvspan(first, offsets[-1] + 0.5, color=style.GREY, alpha=0.15, linewidth=0)
        place = {"transform": left.get_xaxis_transform(), "va": "top"}
        left.text(first, 0.98, " future", fontsize=8, **place)
    left.axhline(0, color=style.GREY, linewidth=0.9)
    left.fill_between(offsets, mean - spread, mean + spread, color=style.BLUE, alpha=0.18, lw=0)
    left.plot(offsets, mean, "o-", color=style.BLUE, label="mean")
    size = np.abs(kernel).mean(1)
    left.plot(offsets, size, "s--", color=style.VERMILION, label="mean |weight|")
    left.set(xlabel="offset in tokens", ylabel="weight", xlim=(offsets[0] - 0.5, offsets[-1] + 0.5))
    left.set_title("Over channels")
    left.set_xticks(offsets)
    left.legend(loc="best")
    order = np.lexsort((-kernel.max(0), np.abs(kernel).argmax(0)))
    limit = float(np.abs(kernel).max()) or 1.0
    image = right.imshow(
        kernel[:, order].T, cmap=style.SIGNED, vmin=-limit, vmax=limit, aspect="auto"
    )
    right.grid(False)
    right.set_xticks(
        range(len(offsets)), [str(offset).replace("-", "\N{MINUS SIGN}") for offset in offsets]
    )
    right.set(xlabel="offset in tokens", ylabel=f"{kernel.shape[1]} channels", yticks=[])
    right.set_title("Every channel")
    figure.colorbar(image, ax=right, label="weight", pad=0.02)
    return figure


@style.styled
def tap_profiles(kernels: Mapping[str, Float[np.ndarray, "k c"]]) -> Figure:
    """Draws where causal kernels of several lengths have their weight.

    For each kernel the mean size of the weights over channels by offset, as a share of their sum.

    Args:
        kernels: by name, the last tap for the current token.
    """
    figure = style.new_figure(3.2)
    axes = figure.subplots()
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(kernels)))
    for (name, kernel), shade in zip(kernels.items(), shades, strict=True):
        size = np.abs(kernel).mean(1)
        axes.plot(range(1 - len(size), 1), size / size.sum(), "o-", color=shade, label=name)
    axes.set(xlabel="offset in tokens", ylabel="share of the weight", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.yaxis.set_major_formatter(style.percent_axis())
    axes.legend(loc="upper left", ncols=2)
    return figure


@style.styled
def loss_by_position(
    losses: Mapping[str, Float[np.ndarray, "b t"]],
    levels: Mapping[str, float] | None = None,
    marks: Mapping[str, float] | None = None,
    log: bool = False,
) -> Figure:
    """Draws the mean loss of the prediction from 1, 2, ... tokens, with its 95 % interval.

    Args:
        losses: by name of the model, nats; rows of more than 128 are averaged over equal parts.
        levels: losses to compare with, as dotted lines by name.
        marks: numbers of tokens to mark, as dashed lines by name.
        log: logarithmic axis of the number of tokens; parts grow in proportion then.
    """
    figure = style.new_figure(3.4)
    axes, lowest = figure.subplots(), np.inf
    for (name, table), look in zip(losses.items(), _looks(len(losses)), strict=True):
        centres, table = _parts(np.asarray(table, np.float64), log)
        mean = table.mean(0)
        lowest = min(lowest, mean.min())
        colour, line = look
        axes.plot(centres, mean, color=colour, linestyle=line, label=name)
        if len(table) > 1:
            error = 1.96 * table.std(0, ddof=1) / np.sqrt(len(table))
            low, high = mean - error, mean + error
            axes.fill_between(centres, low, high, color=colour, alpha=0.15, linewidth=0)
    for name, level in (levels or {}).items():
        axes.axhline(level, color=style.GREY, linewidth=1.2, linestyle=":")
        axes.annotate(name, (1, level), (-2, 3), xycoords=axes.get_yaxis_transform(), fontsize=8,
                      textcoords="offset points", ha="right", color=style.BLACK)  # fmt: skip
    for name, mark in (marks or {}).items():
        axes.axvline(mark, color=style.GREY, linewidth=1, linestyle="--", zorder=0)
        axes.annotate(name, (mark, 1), (3, -2), xycoords=axes.get_xaxis_transform(), fontsize=8,
                      textcoords="offset points", va="top", color=style.BLACK)  # fmt: skip
    if log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="tokens to go by", ylabel="loss (nats per token)")
    if lowest < 1:
        axes.set_ylim(bottom=0)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper center", ncols=min(5, len(losses))
    )
    return figure


def _looks(count: int) -> list[tuple[str, str]]:
    """Returns colour and line for each of several curves, no two alike up to sixteen."""
    colours = [look[0] for look in LOOKS]
    lines = [look[1] for look in LOOKS]
    return [(colours[i % 4], lines[(i + i // 4) % 4]) for i in range(count)]


def _parts(table: np.ndarray, log: bool) -> tuple[np.ndarray, np.ndarray]:
    """Averages losses (b, t) over parts of the row; returns the parts' centres and (b, parts)."""
    length = table.shape[1]
    if log:
        edges = (
            np.unique(np.rint(np.geomspace(1, length + 1, MOST_POINTS // 2 + 1)).astype(int)) - 1
        )
    else:
        edges = np.unique(np.rint(np.linspace(0, length, min(length, MOST_POINTS) + 1)).astype(int))
    sizes = np.diff(edges)
    sums = np.add.reduceat(table, edges[:-1], 1)
    return (edges[:-1] + 1 + edges[1:]) / 2, sums / sizes
