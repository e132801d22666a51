"""The numbers behind the Pathfinder report: predictions, shortcuts, gates, states and gradients."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from common.analysis import (
    capture,
    linear_probe,
    spatial_attribution,
)
from common.array_types import Array, Float, PyTree, UInt8
from common.train import wilson_interval

SMALL_BATCH = 16
"""Images at once where every step of every state is kept in memory."""

MIDDLE = (0.1, 0.9)
"""Quantiles between which lie the middle 80 %."""

FOLDS = 10
"""Parts of the images that take turns in being left out of a fit."""

MAJORITY = "majority class"
"""Name of the answer that knows nothing."""


class ImageSet(Protocol):
    """Images of one split; the arrays may be memory maps."""

    @property
    def images(self) -> np.ndarray:
        """(n, s, s) uint8."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """(n,) 1 where the discs end one contour, else 0."""
        ...

    @property
    def marker_distances(self) -> np.ndarray:
        """(n,) distance between the discs, reference pixels."""
        ...

    def shortcut_features(self) -> dict[str, np.ndarray]:
        """What might tell the label without following a contour; (n, d) by name."""
        ...


class ImageTask(Protocol):
    """What the report needs of a task."""

    @property
    def model(self) -> nn.Module:
        """Maps images (b, s, s, 3), or videos where it has time steps, to logits (b, 2)."""
        ...

    @property
    def eval_sources(self) -> Mapping[str, ImageSet]:
        """Held-out images by name."""
        ...

    def preprocess(self, images: UInt8[Array, "b s s"], /) -> Float[Array, "b s s 3"]:
        """Turns grey bytes into what the model takes."""
        ...


class Score(NamedTuple):
    """A share of right answers with its 95 % Wilson interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, correct: np.ndarray) -> "Score":
        """Scores right (True) and wrong (False) answers."""
        return cls(float(correct.mean()), *wilson_interval(int(correct.sum()), correct.size))


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says about every image of a split.

    Attributes:
        labels: (n,) the truth.
        probability: (n,) of label 1.
        loss: (n,) cross entropy, nats.
    """

    labels: np.ndarray
    probability: np.ndarray
    loss: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Tells for each image whether the likelier label is the true one."""
        return (self.probability > 0.5) == (self.labels == 1)

    @property
    def confidence(self) -> np.ndarray:
        """Returns the probability of the answer given, 0.5 to 1."""
        return np.maximum(self.probability, 1 - self.probability)

    def mistakes(self) -> np.ndarray:
        """Returns the numbers of the images answered wrongly, most confident first."""
        order = np.argsort(-self.confidence, kind="stable")
        return order[~self.correct[order]]


def predict(task: ImageTask, params: PyTree, data: ImageSet, batch_size: int) -> Predictions:
    """Runs the model on every image of `data`."""

    def log_probabilities(params: PyTree, images: Array) -> Array:
        logits = task.model.apply({"params": params}, task.preprocess(images))
        assert isinstance(logits, Array)
        return jax.nn.log_softmax(logits.astype(jnp.float32))

    log_p = in_batches(jax.jit(log_probabilities), params, (data.images,), batch_size)
    labels = np.asarray(data.labels).astype(np.int64)
    loss = -np.take_along_axis(log_p, labels[:, None], 1)[:, 0]
    return Predictions(labels, np.exp(log_p[:, 1]), loss)


def shortcuts(data: ImageSet) -> dict[str, Score]:
    """Scores what can be told without following a contour.

    The majority class, and logistic regressions on `data.shortcut_features()`, each image being
    answered by one that was fitted to other images of `data`.
    """
    labels = np.asarray(data.labels)
    scores = {MAJORITY: Score.of(labels == (labels.mean() > 0.5))}
    folds = min(FOLDS, len(labels) // 2)
    features_by_name = data.shortcut_features() if folds > 1 else {}
    for name, features in features_by_name.items():
        scores[name] = Score(*linear_probe(features, labels, folds, group=2)[:3])
    return scores


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """What a model lets one see.

    Attributes:
        kernels: spatial kernels (c, k, l) by the name of their block.
        gates: by block the names of its gates, in the block's own order.
        states: by block the shape (T, b, h, w, c, n) of its states for one image.
        steps: time steps T, 1 where the model has none.
    """

    kernels: dict[str, np.ndarray]
    gates: dict[str, list[str]]
    states: dict[str, tuple[int, ...]]
    steps: int

    def state_names(self, block: str) -> list[str]:
        """Returns the names of a block's states: those of its decay gates where there are such."""
        decays = [
            name.removeprefix("decay_")
            for name in self.gates.get(block, [])
            if name.startswith("decay_")
        ]
        count = self.states[block][-1]
        return decays if len(decays) == count else [str(i + 1) for i in range(count)]


def find_anatomy(task: ImageTask, params: PyTree) -> Anatomy:
    """Looks up kernels in the parameters, gates and states in the intermediates."""
    leaves: dict[str, Any] = flatten_dict(params, sep="/")
    kernels = {
        path.rpartition("/")[0]: np.asarray(leaf)
        for path, leaf in leaves.items()
        if path.endswith("/kernel") and leaf.ndim == 3
    }
    found: dict[str, tuple[int, ...]] = {}  # filled in the model's order, which eval_shape sorts

    def trace(params: PyTree, images: Array) -> None:
        named = capture(task.model, {"params": params}, task.preprocess(images))[1]
        found.update({name: value.shape for name, value in named.items()})

    jax.eval_shape(trace, params, np.asarray(next(iter(task.eval_sources.values())).images[:1]))
    gates: dict[str, list[str]] = {}
    for path in found:
        block, _, name = path.rpartition("/gates/")
        if block:
            gates.setdefault(block, []).append(name)
    states = {
        path.removesuffix("/states"): shape
        for path, shape in found.items()
        if path.endswith("/states") and len(shape) == 6
    }
    return Anatomy(kernels, gates, states, max([1, *(shape[0] for shape in states.values())]))


class Gate(NamedTuple):
    """One gate's values.

    Attributes:
        mean: (T, b) mean over frequencies at each step for each image.
        middle: (T, 2) limits of the middle 80 % of frequencies, mean over images.
    """

    mean: np.ndarray
    middle: np.ndarray


def gate_values(
    task: ImageTask, params: PyTree, anatomy: Anatomy, images: np.ndarray
) -> dict[str, dict[str, Gate]]:
    """Measures all gates, by block and name, on `images`."""
    paths = [(block, name) for block, names in anatomy.gates.items() for name in names]

    def summaries(params: PyTree, batch: Array) -> Array:
        named = capture(task.model, {"params": params}, task.preprocess(batch))[1]
        rows = []
        for block, name in paths:
            gate = named[f"{block}/gates/{name}"]
            gate = gate.reshape(*gate.shape[:2], -1)
            rows.append([gate.mean(-1), *jnp.quantile(gate, jnp.array(MIDDLE), axis=-1)])
        return jnp.moveaxis(jnp.array(rows), -1, 0)

    values = in_batches(jax.jit(summaries), params, (images,), SMALL_BATCH)
    result: dict[str, dict[str, Gate]] = {}
    for i, (block, name) in enumerate(paths):
        middle = values[:, i, 1:].mean(0).T
        result.setdefault(block, {})[name] = Gate(values[:, i, 0].T, middle)
    return result


def state_energy(
    task: ImageTask, params: PyTree, block: str, images: np.ndarray
) -> Float[np.ndarray, "b n T h w"]:
    """Returns the strength of each state of a block at each place.

    It is the root mean square over channels of the state less its mean over the map.
    """

    def energy(params: PyTree, batch: Array) -> Array:
        named = capture(task.model, {"params": params}, task.preprocess(batch))[1]
        states = named[f"{block}/states"]
        states = states - states.mean((-4, -3), keepdims=True)
        return jnp.sqrt(jnp.mean(states**2, axis=-2)).transpose(1, 4, 0, 2, 3)

    return np.asarray(jax.jit(energy)(params, images))


def pixel_attribution(
    task: ImageTask, params: PyTree, images: np.ndarray, labels: np.ndarray, steps: int
) -> Float[np.ndarray, "b t s s"]:
    """Returns |d logit of the true label / d pixel| for a video of `steps` equal frames.

    With `steps` 1 the model sees a still image.
    """

    def attribution(params: PyTree, batch: Array, target: Array) -> Array:
        still = task.preprocess(batch)
        frames = jnp.repeat(still[:, None], steps, axis=1)

        def apply(x: Array) -> Any:
            return task.model.apply({"params": params}, x if steps > 1 else x[:, 0])

        return spatial_attribution(apply, frames, target)

    targets = np.asarray(labels).astype(np.int32)
    return in_batches(jax.jit(attribution), params, (images, targets), SMALL_BATCH)


def in_batches(
    function: Callable[..., Array],
    params: PyTree,
    arrays: tuple[np.ndarray, ...],
    batch_size: int,
) -> np.ndarray:
    """Calls `function(params, *batch)` on batches of one size, the last one filled up."""
    count = len(arrays[0])
    size = min(batch_size, count)
    parts = []
    for start in range(0, count, size):
        rows = np.minimum(np.arange(start, start + size), count - 1)
        batch = (np.asarray(array[rows]) for array in arrays)
        parts.append(np.asarray(function(params, *batch)))
    return np.concatenate(parts)[:count]
