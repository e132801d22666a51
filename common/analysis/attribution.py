"""How much a small change of the input would change the answer: gradients of one logit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from common.array_types import Array, Float, Int

Apply = Callable[[Array], Array]


def input_gradient(
    apply: Apply, frames: Float[Array, "b *axes"], target: Int[Array, "b"]
) -> Float[Array, "b *axes"]:
    """Returns the gradient of each example's target logit with respect to its own input.

    Args:
        apply: maps the inputs to logits (b, classes), each example on its own.
        frames: inputs of any shape after the batch axis.
        target: class of each example whose logit is differentiated.
    """

    def total(inputs: Array) -> Array:
        chosen = jnp.take_along_axis(apply(inputs), jnp.asarray(target)[:, None], axis=-1)
        return chosen.sum()

    return jax.grad(total)(frames)


def spatial_attribution(
    apply: Apply, frames: Float[Array, "b t H W colours"], target: Int[Array, "b"]
) -> Float[Array, "b t H W"]:
    """Returns |d logit / d pixel|, summed over the colours, for every pixel of every frame."""
    return jnp.abs(input_gradient(apply, frames, target)).sum(-1)


def temporal_attribution(
    apply: Apply, frames: Float[Array, "b t H W colours"], target: Int[Array, "b"]
) -> Float[Array, "b t"]:
    """Returns |d logit / d frame|, summed over all pixels and colours, for every frame."""
    return spatial_attribution(apply, frames, target).sum((-2, -1))
