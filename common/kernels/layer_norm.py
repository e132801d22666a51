"""Normalisation over channels."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from common.array_types import Array, Float


def layer_norm(
    x: Float[Array, "*b c"],
    scale: Float[Array, "c"],
    offset: Float[Array, "c"],
    epsilon: float = 1e-6,
) -> Float[Array, "*b c"]:
    """Returns scale (x - mean) / sqrt(variance + epsilon) + offset, place by place.

    Mean and variance are over the channels, in float32 at least; the variance is the mean of
    squares less the square of the mean. Source: Ba, Kiros and Hinton 2016, "Layer normalization",
    equation 4. On a CPU all means over channels are products with a vector, which XLA hands to a
    library (its own sums over a last axis go number by number), and the gradient is written out:
    in loops, forward and backward take half to .6 of the time of Flax's layer
    (`experiments.benchmarks.convolution`, cases norm_64 and norm_128).

    Args:
        x: channels last.
        scale: factor of each channel.
        offset: summand of each channel.
        epsilon: keeps the root above zero.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x, scale, offset = (y.astype(dtype) for y in (x, scale, offset))
    if jax.default_backend() == "cpu":
        return _with_own_gradient(epsilon, x, scale, offset)
    return _normalized(epsilon, x, scale, offset, partial(jnp.mean, axis=-1, keepdims=True))[0]


def _normalized(epsilon, x, scale, offset, mean_of):
    """Returns the result, the mean and the inverse of the standard deviation."""
    mean = mean_of(x)
    variance = jnp.maximum(mean_of(x * x) - mean * mean, 0.0)
    inverse = lax.rsqrt(variance + epsilon)
    return (x - mean) * (inverse * _row(scale, x)) + _row(offset, x), mean, inverse


def _row(vector: Array, like: Array) -> Array:
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)


def _mean_by_product(x: Array) -> Array:
    """Returns the mean over the last axis, which stays with length 1."""
    weights = jnp.full((x.shape[-1], 1), 1.0 / x.shape[-1], x.dtype)
    return jnp.einsum("...c,cd->...d", x, weights)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _with_own_gradient(epsilon, x, scale, offset):
    return _normalized(epsilon, x, scale, offset, _mean_by_product)[0]


def _forward(epsilon, x, scale, offset):
    y, mean, inverse = _normalized(epsilon, x, scale, offset, _mean_by_product)
    return y, (x, scale, mean, inverse)


def _backward(epsilon, residuals, cotangent):
    del epsilon
    x, scale, mean, inverse = residuals
    scaled, centred = cotangent * _row(scale, x), x - mean
    along = _mean_by_product(scaled)
    across = inverse * inverse * _mean_by_product(scaled * centred)
    places = tuple(range(x.ndim - 1))
    d_scale = (cotangent * centred * inverse).sum(places)
    return inverse * (scaled - along - centred * across), d_scale, cotangent.sum(places)


_with_own_gradient.defvjp(_forward, _backward)
