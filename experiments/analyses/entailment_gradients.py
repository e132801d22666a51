"""Gradients into queries, keys and values of an encoder, of the branches and written out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alcnet import ALCNet, Reading, pool_maps
from common.analysis import style
from common.analysis.causal_figures import LOOKS
from common.analysis.page import Page
from common.array_types import Array, PyTree
from experiments.analyses.entailment_branches import NAMES

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
    model, inputs = subject.task.model, subject.task.inputs(batch)

    @jax.jit
    def norms(params: PyTree, held: dict[str, Array]) -> Array:
        def loss(params: PyTree) -> Array:
            reading = _held(model.apply({"params": params}, **inputs, method="read")[0], held)
            return _cross_entropy(model, params, reading, batch["label"])

        slopes = jax.grad(loss)(params)["encoder"]
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


def _held(reading: Reading, held: Mapping[str, Any]) -> Reading:
    """Returns the reading without a gradient through what branches that are held read."""
    cut = {}
    for name, field in READ_FIELDS.items():
        value = getattr(reading, field)
        if value is not None:
            cut[field] = jnp.where(held[name], jax.lax.stop_gradient(value), value)
    return reading.replace(**cut)


def _cross_entropy(model: Any, params: PyTree, reading: Reading, labels: Array) -> Array:
    logits = model.apply({"params": params}, reading, method="decide").logits
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()


def add_flow(page: Page, subject: Any) -> None:
    """Adds the gradients at Q, K and V with and without the CNN."""
    names = [
        name
        for name in READ_FIELDS
        if name in subject.features
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
    page.figure(
        flow_by_layer(found),
        "gradient_flow",
        "Gradient norms at queries, keys and values by layer, for all branches and each alone",
    )
    page.table(
        ("through", "layer", *PARTS),
        [
            (name, layer, *(f"{v:.2e}" for v in row))
            for name, values in found.items()
            for layer, row in enumerate(values)
        ],
    )


@style.styled
def flow_by_layer(found: Mapping[str, np.ndarray]) -> Figure:
    """Draws norms (layers, 3) by name, a panel for each of Q, K and V; zeros are left out."""
    figure = style.new_figure(3.0)
    grid = figure.subplots(1, len(PARTS), sharey=True)
    for column, (axes, part) in enumerate(zip(grid, PARTS, strict=True)):
        for (name, values), (colour, line, marker) in zip(found.items(), LOOKS, strict=False):
            norms = np.where(values[:, column] > 0, values[:, column], np.nan)
            label = name if name == "all" else f"{NAMES[name]} alone"
            axes.plot(norms, color=colour, linestyle=line, marker=marker, label=label)
        axes.set(yscale="log", title=part, xlabel="layer")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[0].set_ylabel("norm of the gradient")
    handles = grid[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(found))
    return figure


def add_chain_rule(page: Page, subject: Any) -> None:
    """Adds the chain rule from a map to the kernels, checked on this model's own."""
    if "cnn" not in subject.features:
        return
    page.section("The chain rule, written out and checked")
    page.paragraph(
        "In a layer with input X, per head of width d: Q = X W_q + b_q, K = X W_k + b_k, scores "
        "S = Q K' / sqrt(d), map A = softmax(S) row by row. The CNN sees A, and gives G = dL/dA. "
        "Row i of the softmax has dA_ij / dS_ik = A_ij (1[j = k] - A_ik), so that "
        "dL/dS = A * (G - rowsum(A * G)): only what differs from the row's average presses. From "
        "there dL/dQ = dL/dS K / sqrt(d), dL/dK = (dL/dS)' Q / sqrt(d), and summed over pairs and "
        "places dL/dW_q = X' dL/dQ, dL/dW_k = X' dL/dK. The map of a layer does not hold its own "
        "values, so that dL/dW_v = 0 for the last layer that is read; below it V acts through X "
        "of the layer above."
    )
    check = check_chain_rule(subject)
    page.paragraph(
        f"Checked on {PAIRS} pairs at layer {check.layer}, the last that the CNN reads, through "
        "the CNN alone: dL/dW_q and dL/dW_k by these formulas, in float64 but for G, against "
        "automatic differentiation of the whole model in float32. Largest difference, as a share "
        f"of the largest entry: {check.query:.1e} at the queries, {check.key:.1e} at the keys. "
        f"The largest entry of dL/dW_v there is {check.value:.1g}."
    )


class ChainRuleCheck(NamedTuple):
    """How far the written formulas are from automatic differentiation.

    Attributes:
        layer: the last one that the CNN reads.
        query: largest difference of dL/dW_q, relative to its largest entry.
        key: likewise of dL/dW_k.
        value: largest entry of dL/dW_v.
    """

    layer: int
    query: float
    key: float
    value: float


def check_chain_rule(subject: Any) -> ChainRuleCheck:
    """Compares the gradients at a layer's kernels through the CNN with those written out."""
    batch = subject.source.__getitems__(np.arange(min(PAIRS, len(subject.source))))
    model = in_float32(subject.task.model)
    inputs, labels = subject.task.inputs(batch), batch["label"]
    params = subject.task.model_params(subject.params)
    held = {name: name != "cnn" for name in READ_FIELDS}
    layer = max(model.map_layers or range(len(model.encoder.layers)))
    place = -1 if model.map_layers is None else model.map_layers.index(layer)
    regions = model.regions(inputs["attention_mask"], inputs["token_type_ids"])

    @jax.jit
    def differentiate(params: PyTree) -> tuple[PyTree, Reading, Array]:
        def loss(params: PyTree) -> tuple[Array, Any]:
            found: Any = model.apply({"params": params}, **inputs, method="read")
            reading, out = found
            value = _cross_entropy(model, params, _held(reading, held), labels)
            return value, (reading, out.hidden_states[layer])

        slopes, (reading, below) = jax.grad(loss, has_aux=True)(params)
        return slopes["encoder"][f"layers_{layer}"]["attention"], reading, below

    @jax.jit
    def at_maps(maps: Array, reading: Any) -> Array:
        def loss(maps: Array) -> Array:
            pooled = reading.maps.at[:, place].set(pool_maps(maps, regions))
            return _cross_entropy(model, params, reading.replace(maps=pooled), labels)

        return jax.grad(loss)(maps)

    slopes, reading, below = differentiate(params)
    x = np.asarray(below, np.float64)
    kernels = jax.tree.map(
        lambda p: np.asarray(p, np.float64), params["encoder"][f"layers_{layer}"]["attention"]
    )
    heads = model.encoder.layers[layer].heads
    query, key = (
        (x @ kernels[part]["kernel"] + kernels[part]["bias"]).reshape(*x.shape[:2], heads, -1)
        for part in ("query", "key")
    )
    root = math.sqrt(query.shape[-1])
    scores = np.einsum("bqhd,bshd->bhqs", query, key) / root
    scores = np.where(np.asarray(inputs["attention_mask"])[:, None, None] != 0, scores, -np.inf)
    maps = np.exp(scores - scores.max(-1, keepdims=True))
    maps /= maps.sum(-1, keepdims=True)
    slope = np.asarray(at_maps(jnp.asarray(maps, jnp.float32), reading), np.float64)
    of_scores = maps * (slope - (maps * slope).sum(-1, keepdims=True)) / root
    written = {
        "query": np.einsum("bqi,bhqs,bshd->ihd", x, of_scores, key, optimize=True),
        "key": np.einsum("bsi,bhqs,bqhd->ihd", x, of_scores, query, optimize=True),
    }
    errors = {}
    for part, values in written.items():
        found = np.asarray(slopes[part]["kernel"], np.float64)
        scale = max(np.abs(found).max(), 1e-30)
        errors[part] = float(np.abs(found - values.reshape(found.shape)).max() / scale)
    return ChainRuleCheck(layer, **errors, value=float(jnp.abs(slopes["value"]["kernel"]).max()))


def in_float32(model: ALCNet) -> ALCNet:
    """Returns the model with all of its encoder's activations in float32."""
    encoder = model.encoder
    return model.clone(
        encoder=encoder.clone(
            embeddings=encoder.embeddings.clone(dtype=jnp.float32),
            layers=tuple(layer.clone(dtype=jnp.float32) for layer in encoder.layers),
        )
    )
