"""Where in the attention maps the CNN presses, and what stands inside and outside of a patch."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from alcnet import SentenceRegions
from common.analysis import ProbeScore, linear_probe, style
from common.analysis.page import Page
from common.array_types import Array, PyTree
from experiments.analyses.entailment_gradients import PAIRS
from experiments.reports.wording import share


def pressure(subject: Any, params: PyTree) -> np.ndarray:
    """Returns mean |gradient x activation| of the answer's logit, (layers, heads, q, s)."""
    reading, labels = subject.read(params, PAIRS)
    model, merged = subject.task.model, subject.task.model_params(params)

    def logit(maps: Array) -> Array:
        decision = model.apply({"params": merged}, reading.replace(maps=maps), method="decide")
        return jnp.take_along_axis(decision.logits, labels[:, None], 1).sum()

    slope = jax.jit(jax.grad(logit))(reading.maps)
    values = np.abs(np.asarray(slope * reading.maps)).mean(0)
    return np.moveaxis(values, 3, 1)


@style.styled
def heat_maps(values: np.ndarray) -> Figure:
    """Draws the roots of maps (layers, heads, q, s), a row for each layer, all on one scale.

    The scale ends where one place in two hundred is above it.
    """
    layers, heads = values.shape[:2]
    figure = style.new_figure(layers * min(1.5, style.WIDTH / heads) + 0.5)
    grid = figure.subplots(layers, heads, squeeze=False)
    high = math.sqrt(np.quantile(values[values > 0], 0.995)) if values.any() else 1.0
    for layer in range(layers):
        for head in range(heads):
            axes = grid[layer, head]
            image = np.sqrt(values[layer, head])
            style.show_image(axes, image, cmap=style.ENERGY, vmin=0, vmax=high)
            if layer == 0:
                axes.set_title(f"head {head}", fontsize=7, fontweight="normal")
        grid[layer, 0].set_ylabel(f"layer {layer}", fontsize=7)
    return figure


def add_heat_maps(page: Page, subject: Any) -> None:
    """Adds where in the maps the CNN's answer is decided."""
    if "cnn" not in subject.features:
        return
    values = pressure(subject, subject.params)
    by_layer = values.sum((1, 2, 3)) / max(values.sum(), 1e-30)
    layer, head = np.unravel_index(values.sum((2, 3)).argmax(), values.shape[:2])
    page.section("Where the CNN presses")
    page.paragraph(
        f"Gradient times activation of the right class's logit, mean size over {PAIRS} pairs, for "
        "every map that the CNN sees: queries downwards, keys to the right, in regions of equal "
        "parts of the text. The share of each layer: "
        f"{', '.join(f'{n}: {share(s, 0)}' for n, s in enumerate(by_layer))}; the strongest map "
        f"is head {head} of layer {layer}."
    )
    page.figure(
        heat_maps(values),
        "heat_maps",
        "Root of gradient times activation on the attention maps, on one scale from 0 (black)",
    )
    page.paragraph(
        "All maps of a layer together, each on its own scale"
        + (
            f": the white lines are between the {first} regions of the first sentence and those "
            "of the second, so that the upper right quarter is the first looking at the second."
            if (first := _first_sentence(subject))
            else "."
        )
    )
    page.figure(
        layer_heat_maps(values.sum(1), _first_sentence(subject)),
        "heat_maps_by_layer",
        "Root of gradient times activation, summed over the heads of each layer",
    )


def _first_sentence(subject: Any) -> int:
    """Returns how many regions are of the first sentence; 0 where regions run over both."""
    regions = subject.task.model.regions
    return regions.first if isinstance(regions, SentenceRegions) else 0


@style.styled
def layer_heat_maps(values: np.ndarray, first: int = 0) -> Figure:
    """Draws the roots of maps (layers, q, s) in a row; lines after the first regions, if any."""
    figure = style.new_figure(style.WIDTH / min(len(values), 6) * -(-len(values) // 6) + 0.4)
    grid = figure.subplots(-(-len(values) // 6), min(len(values), 6), squeeze=False).ravel()
    for number, axes in enumerate(grid):
        if number >= len(values):
            axes.set_visible(False)
            continue
        high = math.sqrt(np.quantile(values[number], 0.995)) or 1.0
        image = np.sqrt(values[number])
        style.show_image(axes, image, cmap=style.ENERGY, vmin=0, vmax=high)
        axes.set_title(f"layer {number}")
        if first:
            axes.axvline(first - 0.5, color="white", linewidth=0.8)
            axes.axhline(first - 0.5, color="white", linewidth=0.8)
    grid[0].set_ylabel("query")
    grid[0].set_xlabel("key")
    return figure


def patch_scores(subject: Any, params: PyTree) -> dict[str, tuple[Any, int]]:
    """Returns probes on the visible patch and on the opposite corner, with their features' number.

    Not on all that is outside: rows of a map add up to 1, so that the mass outside is what is left.
    """
    reading, labels = subject.read(params, len(subject.source))
    maps, seen = np.asarray(reading.maps), np.asarray(reading.mask)[0]
    rows, columns = seen.any(1).sum(), seen.any(0).sum()
    corners = {
        "visible patch, top left": maps[:, :, :rows, :columns],
        "as large, bottom right": maps[:, :, -rows:, -columns:],
    }
    return {name: corner_score(part, labels) for name, part in corners.items()}


def corner_score(maps: np.ndarray, labels: np.ndarray) -> tuple[ProbeScore, int]:
    """Returns a probe on the mean mass of maps (b, layers, q, s, heads), and how many features."""
    values = maps.mean((2, 3)).reshape(len(maps), -1)
    return linear_probe(values, np.asarray(labels), penalty=1e-2), values.shape[1]


def add_patch(page: Page, subject: Any) -> None:
    """Adds whether signal moved into the visible patch, for models that see no more of the maps."""
    if "cnn" not in subject.features or subject.config.model.visible == 1.0:
        return
    page.section("Training behind a patch")
    page.paragraph(
        f"The CNN sees {share(subject.config.model.visible, 0)} of queries and of keys alone. Does "
        "what tells the classes apart move there? Linear probes on the mean mass of each layer and "
        "head in the patch and in the opposite corner, before and after training (ten-fold, 95 % "
        "Wilson intervals)."
    )
    rows = []
    for when, params in (("before", subject.initial), ("after", subject.params)):
        for name, (score, count) in patch_scores(subject, params).items():
            limits = f"{100 * score.low:.1f} to {share(score.high)}"
            rows.append((f"{name}, {when} training", count, share(score.accuracy), limits))
    page.table(("patch", "features", "accuracy", "95 % interval"), rows)
