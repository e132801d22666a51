"""Figures: arrays in, matplotlib `Figure` out; nothing is shown, saved or kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.analysis import style
from common.train import wilson_interval

Record = Mapping[str, Any]


@style.styled
def learning_curves(
    records: Sequence[Record],
    metric: str = "accuracy",
    chance: float | None = None,
    best_step: int | None = None,
) -> Figure:
    """Draws the loss and one metric over the training steps.

    Args:
        records: lines of metrics.jsonl. 'train' is a thin line, 'validation' a thick one with its
            interval where the record has '<metric>_low' and '<metric>_high', any other split a
            diamond, at `best_step` where that is given.
        metric: the metric beside the loss, a share between 0 and 1.
        chance: value of `metric` for guessing.
        best_step: step of the checkpoint that was kept.
    """
    figure = style.new_figure(3.2)
    for axes, key in zip(figure.subplots(1, 2), ("loss", metric), strict=True):
        for split in dict.fromkeys(record["split"] for record in records):
            chosen = [r for r in records if r["split"] == split and key in r]
            if split not in ("train", "validation") and best_step is not None:
                chosen = [{**r, "step": best_step} for r in chosen]
            _curve(axes, chosen, key, split)
        if best_step is not None:
            axes.axvline(best_step, color=style.GREY, linewidth=0.9, linestyle="--", zorder=0)
        if key == metric and chance is not None:
            axes.axhline(chance, color=style.GREY, linewidth=1.2, linestyle=":", label="chance")
        axes.set(xlabel="training step", title=key.capitalize(), xlim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if key == metric:
            axes.yaxis.set_major_formatter(style.percent_axis())
        axes.legend(loc="best")
    return figure


def _curve(axes: Axes, records: Sequence[Record], key: str, split: str) -> None:
    steps, values = [r["step"] for r in records], [r[key] for r in records]
    if split == "train":
        axes.plot(steps, values, color=style.ORANGE, linewidth=1.1, label=split)
    elif split == "validation":
        axes.plot(steps, values, color=style.BLUE, marker="o", markersize=3.5, label=split)
        bounded = [r for r in records if f"{key}_low" in r]
        axes.fill_between(
            [r["step"] for r in bounded],
            [r[f"{key}_low"] for r in bounded],
            [r[f"{key}_high"] for r in bounded],
            color=style.BLUE,
            alpha=0.18,
            linewidth=0,
        )
    else:
        axes.plot(
            steps, values, "D", color=style.BLACK, markersize=6, label=split, linestyle="none"
        )


@style.styled
def image_grid(
    images: np.ndarray,
    captions: Sequence[str],
    marks: Sequence[str] | None = None,
    columns: int = 6,
    cmap: str = style.INK,
) -> Figure:
    """Draws images (n, h, w) side by side, `columns` to a row, black at 0, each with its caption.

    Args:
        images: the images; all share one scale.
        captions: text above each, one or two lines.
        marks: colour of each caption and frame; black by default.
        columns: images in a row.
        cmap: matplotlib's name of the colour map.
    """
    rows = max(1, -(-len(images) // columns))
    side = style.WIDTH / columns
    lines = max([1, *(caption.count("\n") + 1 for caption in captions)])
    figure = style.new_figure(rows * (side + 0.1 + 0.16 * lines))
    high = images.max() if len(images) else 1.0
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for i, axes in enumerate(grid):
        if i >= len(images):
            axes.set_axis_off()
            continue
        colour = marks[i] if marks else style.BLACK
        style.show_image(axes, images[i], cmap=cmap, vmin=0, vmax=high)
        axes.set_title(captions[i], fontsize=8, color=colour, fontweight="normal")
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=1.5 if marks else 0.6)
    return figure


@style.styled
def kernel_grid(kernels: np.ndarray, columns: int | None = None) -> Figure:
    """Draws kernels (c, k, l), the one of largest norm first, all on one scale around zero.

    The number above each is its channel.
    """
    order = np.argsort(-np.linalg.norm(kernels.reshape(len(kernels), -1), axis=1), kind="stable")
    columns = columns or min(len(kernels), 8 if len(kernels) <= 32 else 16)
    rows = -(-len(kernels) // columns)
    limit = float(np.abs(kernels).max()) or 1.0
    figure = style.new_figure(rows * (0.86 * style.WIDTH / columns + 0.14))
    grid = figure.subplots(rows, columns, squeeze=False)
    image = None
    for i, axes in enumerate(grid.flat):
        if i >= len(order):
            axes.set_axis_off()
            continue
        image = style.show_image(
            axes, kernels[order[i]], cmap=style.SIGNED, vmin=-limit, vmax=limit
        )
        axes.set_title(str(order[i]), fontsize=7, fontweight="normal", loc="center", pad=2)
    assert image is not None
    used = [axes for axes in grid.flat if axes.images]
    part = columns / min(columns, len(used))  # sizes of a scale are shares of the axes beside it
    figure.colorbar(
        image, ax=used, label="weight", fraction=0.03 * part, pad=0.01 * part, aspect=25 / part
    )
    return figure


@style.styled
def gates_over_time(
    gates: Mapping[str, np.ndarray],
    labels: np.ndarray,
    names: tuple[str, str],
    ranges: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Draws each gate's value over the time steps, by label.

    Args:
        gates: by name the value (T, b) at each step for each image.
        labels: (b,) 0 or 1.
        names: what label 0 and label 1 mean.
        ranges: by name a lower and an upper limit (T, 2) for a grey band behind the lines.

    Lines are means over images, coloured bands one standard deviation to each side. The line of
    label 0 is the wide one, so that it shows where the other covers it.
    """
    columns = min(5, len(gates))
    rows = -(-len(gates) // columns)
    figure = style.new_figure(1.75 * rows + 0.45)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for i, axes in enumerate(grid.flat):
        if i >= len(gates):
            axes.set_axis_off()
            continue
        name = list(gates)[i]
        if ranges:
            time = np.arange(1, len(ranges[name]) + 1)
            axes.fill_between(time, *ranges[name].T, color=style.GREY, alpha=0.22, linewidth=0)
        for label in (0, 1):
            _band(axes, gates[name][:, labels == label], label, names[label])
        axes.set(title=name, ylim=(0, 1))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if i + columns >= len(gates):
            axes.set_xlabel("time step")
            axes.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("gate value")
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def _band(axes: Axes, values: np.ndarray, label: int, name: str) -> None:
    """Draws mean and standard deviation of values (T, b) over time 1 ... T."""
    time = np.arange(1, len(values) + 1)
    mean, spread = values.mean(1), values.std(1)
    colour = style.CLASS_COLOURS[label]
    axes.plot(time, mean, color=colour, linewidth=1.5 if label else 4.5, label=name)
    axes.fill_between(time, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)


@style.styled
def attribution_over_time(
    attribution: np.ndarray, labels: np.ndarray, names: tuple[str, str]
) -> Figure:
    """Draws how much each frame counts for the answer, and the running share of the total.

    Args:
        attribution: (b, T) as `temporal_attribution` gives it.
        labels: (b,) 0 or 1.
        names: what label 0 and label 1 mean.

    Bars are means over images with a 95 % interval of the mean.
    """
    figure = style.new_figure(3.4)
    left, right = figure.subplots(1, 2)
    time = np.arange(1, attribution.shape[1] + 1)
    for label in (0, 1):
        values = attribution[labels == label]
        mean = values.mean(0)
        error = 1.96 * values.std(0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
        colour, offset = style.CLASS_COLOURS[label], 0.4 * label - 0.2
        error_style = {"linewidth": 1, "ecolor": style.BLACK}
        left.bar(
            time + offset, mean, 0.38, color=colour, yerr=error, error_kw=error_style,
            label=names[label], hatch="" if label else "////", edgecolor="white", linewidth=0,
        )  # fmt: skip
        marker = style.CLASS_MARKERS[label]
        right.plot(time, np.cumsum(mean) / mean.sum(), color=colour, marker=marker)
    left.set(title="Gradient of each frame", ylabel="sum of |d logit / d pixel|")
    right.plot(time, time / len(time), color=style.GREY, linestyle=":", label="all frames alike")
    right.set(title="Share of the total so far", ylim=(0, 1.03))
    right.yaxis.set_major_formatter(style.percent_axis())
    for axes in (left, right):
        axes.set_xlabel("time step of the frame")
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@style.styled
def attribution_maps(images: np.ndarray, maps: np.ndarray, captions: Sequence[str]) -> Figure:
    """Draws images (n, H, W) above their pixels' attribution (n, H, W), each on its own scale."""
    count = len(images)
    figure = style.new_figure(2 * style.WIDTH / count + 0.3)
    grid = figure.subplots(2, count, squeeze=False)
    for i in range(count):
        style.show_image(grid[0, i], images[i], cmap=style.INK)
        style.show_image(grid[1, i], maps[i], cmap=style.ENERGY, vmin=0)
        grid[0, i].set_title(captions[i], fontsize=8, fontweight="normal")
    return figure


@style.styled
def states_over_time(
    images: np.ndarray, energy: np.ndarray, captions: Sequence[str], names: Sequence[str]
) -> Figure:
    """Draws where in space each state of a recurrence is strong, step by step.

    Args:
        images: (m, H, W) the images shown to the model.
        energy: (m, n, T, h, w) non-negative strength of state n; each state has one scale.
        captions: text beside each image.
        names: (n,) of the states.
    """
    count, states, steps = energy.shape[:3]
    columns = steps + 1
    figure = style.new_figure(count * states * min(1.1, style.WIDTH / columns) + 0.3)
    grid = figure.subplots(count * states, columns, squeeze=False)
    for row, axes_row in enumerate(grid):
        example, state = divmod(row, states)
        if state == 0:
            style.show_image(axes_row[0], images[example], cmap=style.INK)
            axes_row[0].set_title(captions[example], fontsize=8, fontweight="normal")
        else:
            axes_row[0].set_axis_off()
        high = energy[:, state].max()
        for step, axes in enumerate(axes_row[1:]):
            values = energy[example, state, step]
            style.show_image(axes, values, cmap=style.ENERGY, vmin=0, vmax=high)
            if row == 0:
                axes.set_title(f"step {step + 1}", fontsize=8, fontweight="normal")
        axes_row[1].set_ylabel(names[state], rotation=0, ha="right", va="center")
    return figure


@style.styled
def accuracy_by_distance(
    distances: np.ndarray,
    correct: np.ndarray,
    labels: np.ndarray,
    names: tuple[str, str],
    chance: float = 0.5,
    bins: int = 10,
) -> Figure:
    """Draws the accuracy over the distance between the markers, above the number of images.

    Args:
        distances: (n,) of all images.
        correct: (n,) whether the answer was right.
        labels: (n,) 0 or 1.
        names: what label 0 and label 1 mean.
        chance: accuracy of guessing.
        bins: number of groups of equal count.
    """
    figure = style.new_figure(4.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    table = binned_accuracy(distances, correct, bins)
    centre, low_edge, high_edge, accuracy, low, high = table.T[:6]
    top.errorbar(
        centre,
        accuracy,
        yerr=_errors(accuracy, low, high),
        xerr=_errors(centre, low_edge, high_edge),
        fmt="o",
        color=style.BLACK,
        ecolor=style.GREY,
        elinewidth=1.2,
        label="model, 95 % interval",
    )
    top.axhline(chance, color=style.GREY, linewidth=1.2, linestyle=":", label="chance")
    top.set(ylabel="accuracy", ylim=(min(chance, low.min()) - 0.05, 1.02))
    top.yaxis.set_major_formatter(style.percent_axis())
    spread = max(float(np.ptp(distances)), 1e-3)  # the same distance everywhere is one bar
    edges = distances.min() + spread * np.linspace(0.0, 1.0, 25)
    edges[-1] = max(edges[-1], distances.max())
    for label in (0, 1):
        bottom.hist(
            distances[labels == label], edges, histtype="step" if label else "stepfilled",
            color=style.CLASS_COLOURS[label], alpha=1.0 if label else 0.45, linewidth=1.6 * label,
            label=f"images, {names[label]}",
        )  # fmt: skip
    bottom.set(ylabel="images", xlabel="distance between the two discs")
    figure.legend(loc="outside upper center", ncols=4)
    return figure


def binned_accuracy(distances: np.ndarray, correct: np.ndarray, bins: int = 10) -> np.ndarray:
    """Groups images by distance into bins of (nearly) equal count.

    Returns:
        (bins, 7): mean, smallest and largest distance; accuracy with the lower and upper limit of
        its 95 % Wilson interval; count.
    """
    rows = []
    for part in np.array_split(np.argsort(distances, kind="stable"), bins):
        if len(part):
            d, hits = distances[part], int(correct[part].sum())
            interval = wilson_interval(hits, len(part))
            rows.append((d.mean(), d[0], d[-1], hits / len(part), *interval, len(part)))
    return np.array(rows)


@style.styled
def comparison(
    names: Sequence[str],
    values: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    chance: float | None = None,
) -> Figure:
    """Draws shares with their intervals, one line each; the first is the one that matters."""
    figure = style.new_figure(0.4 * len(names) + 0.7)
    axes = figure.subplots()
    for i, (value, low, high) in enumerate(zip(values, lows, highs, strict=True)):
        colour = style.GREY if i else style.BLUE
        error = _errors(np.array([value]), np.array([low]), np.array([high]))
        axes.errorbar([value], [i], xerr=error, fmt="s" if i else "o", color=colour, markersize=7)
        text = f"{100 * value:.1f} %"
        axes.text(1.02, i, text, va="center", fontsize=9, transform=axes.get_yaxis_transform())
    if chance is not None:
        axes.axvline(chance, color=style.GREY, linewidth=1.2, linestyle=":", zorder=0)
    axes.set_yticks(range(len(names)), names)
    left = min([*lows, 1.0 if chance is None else chance])
    axes.set(ylim=(len(names) - 0.5, -0.5), xlim=(left - 0.03, 1.01), xlabel="accuracy")
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(style.percent_axis())
    return figure


def _errors(centre: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns the lengths (2, n) of error bars; rounding may not make one negative."""
    return np.maximum(np.stack([centre - low, high - centre]), 0.0)
