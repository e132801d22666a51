"""Where the CNN presses: gradients into queries, keys and values, and on the maps themselves."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from common.analysis import linear_probe, style
from common.analysis.page import Page
from common.array_types import Array, PyTree
from experiments.reports.wording import share

PARTS = ("query", "key", "value")
PAIRS = 32
"""Pairs whose gradients are averaged."""


READ_FIELDS = {"cls": "pooled_states", "cnn": "maps", "stats": "statistics"}
"""What each branch reads of the encoder."""


def flow(subject: Any, branches: Sequence[str | None]) -> list[np.ndarray]:
    """Returns the norms (layers, 3) of the loss's gradient at the kernels of Q, K and V.

    Args:
        subject: model and pairs.
        branches: of each result, the branch whose features carry the gradient, 'cls', 'cnn' or
            'stats'; FiLM's way through the CNN counts as the CNN's. None for all.
    """
    batch = subject.source.__getitems__(np.arange(min(PAIRS, len(subject.source))))
    model = subject.task.model

    def loss(params: PyTree, held: dict[str, Array]) -> Array:
        variables = {"params": params}
        reading = model.apply(variables, **subject.task.inputs(batch), method="read")[0]
        cut = {}
        for name, field in READ_FIELDS.items():
            value = getattr(reading, field)
            if value is not None:
                cut[field] = jnp.where(held[name], jax.lax.stop_gradient(value), value)
        logits = model.apply(variables, reading.replace(**cut), method="decide").logits
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], 1)
        return -chosen.mean()

    @jax.jit
    def norms(params: PyTree, held: dict[str, Array]) -> Array:
        slopes = jax.grad(loss)(params, held)["encoder"]
        layers = sorted((k for k in slopes if k.startswith("layers_")), key=lambda k: int(k[7:]))
        return jnp.stack(
            [
                jnp.stack([jnp.linalg.norm(slopes[k]["attention"][p]["kernel"]) for p in PARTS])
                for k in layers
            ]
        )

    params = subject.task.model_params(subject.params)
    return [
        np.asarray(
            norms(params, {k: np.bool_(branch not in (None, k)) for k in READ_FIELDS}), np.float64
        )
        for branch in branches
    ]


def add_flow(page: Page, subject: Any) -> None:
    """Adds the gradients at Q, K and V with and without the CNN."""
    names = [
        name
        for name, field in (("cls", "cls"), ("cnn", "cnn"), ("stats", "stats"))
        if field in subject.features
        and (name != "stats" or "stats" in subject.config.model.branches)
    ]
    found = dict(zip(("all", *names), flow(subject, [None, *names]), strict=True))
    page.section("Gradient flow into queries, keys and values")
    last = f"{found['cnn'][-1, 2]:.1e}" if "cnn" in found else None
    page.paragraph(
        f"Norm of the loss's gradient at the kernels of each layer, over {PAIRS} pairs: of the "
        "whole model, and of what passes through one branch alone (the others are held)."
        + (
            f" What the CNN reads of the last layer is made before its values are used: their "
            f"gradient through the CNN is {last}."
            if last
            else ""
        )
    )
    page.table(
        ("through", "layer", *PARTS),
        [
            (name, layer, *(f"{v:.2e}" for v in row))
            for name, values in found.items()
            for layer, row in enumerate(values)
        ],
    )


def add_chain_rule(page: Page, subject: Any) -> None:
    """Adds the chain rule from a map to the scores, checked on this model's maps."""
    if "cnn" not in subject.features:
        return
    page.section("The chain rule, written out and checked")
    page.paragraph(
        "With scores S = Q K' / sqrt(d), map A = softmax(S) and G = dL/dA from the CNN: "
        "dL/dS = A * (G - rowsum(A * G)), dL/dQ = dL/dS K / sqrt(d), dL/dK = (dL/dS)' Q / sqrt(d), "
        "and with Q = X W_q: dL/dW_q = X' dL/dQ. The map of a layer does not hold its own values, "
        "so that dL/dV = 0 for the last layer that is read; below it V acts through X of the layer "
        "above."
    )
    reading, _ = subject.read(subject.params, PAIRS)
    error = chain_rule_error(subject.task.model, subject.task.model_params(subject.params), reading)
    page.paragraph(
        "Checked on the maps of this model: the softmax step by this formula against automatic "
        f"differentiation, largest difference {error:.1e} of the largest entry."
    )


def chain_rule_error(model: Any, params: PyTree, reading: Any) -> float:
    """Returns how far the formula for dL/dS is from autodiff, relative to its largest entry.

    The rows of a map of regions are distributions as those of tokens are; S is their logarithm.
    """

    def logit(maps: Array) -> Array:
        decision = model.apply({"params": params}, reading.replace(maps=maps), method="decide")
        return decision.logits[:, 0].sum()

    def through_softmax(scores: Array) -> Array:
        return logit(jax.nn.softmax(scores, axis=3))

    scores = jnp.log(jnp.maximum(reading.maps, 1e-12))
    maps = jax.nn.softmax(scores, axis=3)
    found = jax.jit(jax.grad(through_softmax))(scores)
    g = jax.jit(jax.grad(logit))(maps)
    written = maps * (g - jnp.sum(maps * g, axis=3, keepdims=True))
    scale = jnp.maximum(jnp.max(jnp.abs(found)), 1e-30)
    return float(jnp.max(jnp.abs(found - written)) / scale)


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
    """Draws the roots of maps (layers, heads, q, s), a row for each layer, all on one scale."""
    layers, heads = values.shape[:2]
    figure = style.new_figure(layers * min(1.5, style.WIDTH / heads) + 0.5)
    grid = figure.subplots(layers, heads, squeeze=False)
    high = math.sqrt(values.max()) or 1.0
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


def patch_scores(subject: Any, params: PyTree) -> dict[str, tuple[Any, int]]:
    """Returns probes on the maps inside and outside of the visible patch, with their features."""
    reading, labels = subject.read(params, len(subject.source))
    maps, seen = np.asarray(reading.maps), np.asarray(reading.mask)[0]
    found = {}
    for name, where in (("inside", seen), ("outside", ~seen)):
        values = maps[:, :, where].mean(2).reshape(len(maps), -1)
        found[name] = (linear_probe(values, np.asarray(labels), penalty=1e-2), values.shape[1])
    return found


def add_patch(page: Page, subject: Any) -> None:
    """Adds whether signal moved into the visible patch, for models that see no more of the maps."""
    if "cnn" not in subject.features or subject.config.model.visible == 1.0:
        return
    page.section("Training behind a patch")
    page.paragraph(
        f"The CNN sees {share(subject.config.model.visible, 0)} of queries and of keys alone. Does "
        "what tells the classes apart move there? Linear probes on the mean mass of each layer and "
        "head inside and outside of the patch, before and after training (ten-fold, 95 % Wilson "
        "intervals)."
    )
    rows = []
    for when, params in (("before", subject.initial), ("after", subject.params)):
        for name, (score, count) in patch_scores(subject, params).items():
            limits = f"{100 * score.low:.1f} to {share(score.high)}"
            rows.append((f"{name}, {when} training", count, share(score.accuracy), limits))
    page.table(("patch", "features", "accuracy", "95 % interval"), rows)
