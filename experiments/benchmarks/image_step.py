"""A training step of an image classifier with nothing around it, to be counted or timed."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import linen as nn

from common.array_types import Array, PyTree


def make_step(
    model: nn.Module, optimizer: optax.GradientTransformation
) -> Callable[[PyTree, PyTree, Array, Array], tuple]:
    """Returns a step from (parameters, optimizer state, images, labels) to (loss, the new two).

    It is value_and_grad of the cross-entropy and an update.
    """

    def loss(params: PyTree, images: Array, labels: Array) -> Array:
        logits: Any = model.apply({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def step(params: PyTree, state: PyTree, images: Array, labels: Array) -> tuple:
        value, slope = jax.value_and_grad(loss)(params, images, labels)
        updates, state = optimizer.update(slope, state, params)
        return value, optax.apply_updates(params, updates), state

    return step
