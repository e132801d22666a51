"""The exact GELU, whose derivative is made with it."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from common.array_types import Array, Float


@jax.custom_jvp
def exact_gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns x Phi(x) with the error function itself, no approximation by tanh.

    Computed in float32 at least and rounded once. Where a gradient is asked for, the derivative
    Phi(x) + x phi(x) is computed with the value, from the same error function, and kept instead of
    x (`experiments.benchmarks.language`, case gelu). Source: Hendrycks and Gimpel 2016, "Gaussian
    error linear units", section 2.
    """
    return _value_and_slope(x)[0]


@exact_gelu.defjvp
def _jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    value, slope = _value_and_slope(primals[0])
    return value, slope * tangents[0]


def _value_and_slope(x: Array) -> tuple[Array, Array]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    below = 0.5 * (1.0 + lax.erf(wide * math.sqrt(0.5)))
    density = jnp.exp(-0.5 * wide * wide) / math.sqrt(2.0 * math.pi)
    return (wide * below).astype(x.dtype), (below + wide * density).astype(x.dtype)
