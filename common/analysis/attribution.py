"""How much the input changes the answer: gradients of one logit, and their path integral."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from common.array_types import Array, Float, Int, PyTree

Apply = Callable[[Array], Array]
ApplyParams = Callable[[PyTree, Array], Array]


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


def parameter_gradients(
    apply: ApplyParams, params: PyTree, x: Float[Array, "b *axes"], target: Int[Array, "b"]
) -> PyTree:
    """Returns the gradient of each example's target logit with respect to the parameters.

    One example after the other, so that the memory is that of one.

    Args:
        apply: maps parameters and inputs to logits (b, classes).
        params: parameters of any structure.
        x: inputs of any shape after the batch axis.
        target: class of each example whose logit is differentiated.

    Returns:
        The structure of `params`, each leaf with a leading axis b.
    """

    def one(example: tuple[Array, Array]) -> PyTree:
        inputs, chosen = example
        return jax.grad(lambda p: apply(p, inputs[None])[0, chosen])(params)

    return lax.map(one, (x, jnp.asarray(target)))


def mean_magnitude(gradients: PyTree) -> Float[Array, "b"]:
    """Returns the mean of |gradient| over all numbers of a tree of leaves (b, ...), by example.

    For instance over the kernel and the bias that make a gate.
    """
    leaves = [jnp.abs(leaf).reshape(len(leaf), -1) for leaf in jax.tree.leaves(gradients)]
    return jnp.concatenate(leaves, -1).mean(-1)


class PathAttribution(NamedTuple):
    """What each number of the input adds to a logit on the way from a baseline.

    Attributes:
        values: of the shape of the input.
        change: logit of the input minus that of the baseline, one for each example.
        error: sum of `values` minus `change`: zero for an exact integral (completeness).
    """

    values: Float[Array, "b *axes"]
    change: Float[Array, "b"]
    error: Float[Array, "b"]


def integrated_gradients(
    apply: Apply,
    frames: Float[Array, "b *axes"],
    target: Int[Array, "b"],
    baseline: Float[Array, "b *axes"] | float = 0.0,
    steps: int = 32,
) -> PathAttribution:
    """Integrates the gradient of a logit along the line from a baseline to the input.

    Sundararajan, Taly and Yan 2017, equation 1, by Gauss-Legendre quadrature: exact where the logit
    is a polynomial of degree 2 `steps` along the line.

    Args:
        apply: maps the inputs to logits (b, classes), each example on its own.
        frames: inputs of any shape after the batch axis.
        target: class of each example whose logit is explained.
        baseline: input that stands for the absence of anything, such as a black image.
        steps: evaluations of the gradient.

    Raises:
        ValueError: fewer steps than one.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected 1 or more")
    start = jnp.broadcast_to(jnp.asarray(baseline, frames.dtype), frames.shape)
    difference = frames - start
    nodes, weights = (x.astype(np.float32) for x in np.polynomial.legendre.leggauss(steps))

    def add(total: Array, node: Array) -> tuple[Array, None]:
        position, weight = node
        slope = input_gradient(apply, start + (0.5 + 0.5 * position) * difference, target)
        return total + 0.5 * weight * slope, None

    mean_slope, _ = lax.scan(add, jnp.zeros_like(frames), jnp.stack([nodes, weights], -1))
    values = difference * mean_slope
    chosen = [
        jnp.take_along_axis(apply(x), jnp.asarray(target)[:, None], -1)[:, 0]
        for x in (frames, start)
    ]
    change = chosen[0] - chosen[1]
    return PathAttribution(values, change, values.reshape(len(values), -1).sum(-1) - change)
