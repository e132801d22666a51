"""Affine maps of channels, summed in float32, also where numbers are of half precision.

    y = x W + b,  dx = dy W',  dW = x' dy,  db = 1' dy

XLA's CPU back end multiplies matrices of bfloat16 in the processor's own units (AMX) where the
result is in float32, the left matrix lies row after row and its rows are summed over. A product
whose result is in bfloat16, and one that sums over the columns of both, as dW does, go slower than
in float32. So results are rounded after the product, and x is written out transposed for dW. Sums
over places, as db is, go number by number; as products with ones they do not.
"""

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from common.array_types import Array, Float

BY_ROWS = Layout((0, 1))


def project(
    x: Float[Array, "*b i"], matrix: Float[Array, "i o"], bias: Float[Array, "o"] | None = None
) -> Float[Array, "*b o"]:
    """Returns x @ matrix + bias, summed in float32 at least, in the dtype that all promote to.

    On a CPU all products, forward and backward, are of the kind that the processor is fast at;
    elsewhere, and where there are several devices, over which x could not stay divided, this is
    `jnp.matmul` (`experiments.benchmarks.language`, case projection).

    Args:
        x: channels last.
        matrix: a column for each channel of the result.
        bias: summand of each channel.

    Raises:
        ValueError: channels that do not fit.
    """
    fits = matrix.ndim == 2 and x.shape[-1:] == matrix.shape[:1]
    if not fits or (bias is not None and bias.shape != matrix.shape[1:]):
        shapes = f"x {x.shape}, matrix {matrix.shape}"
        shapes += "" if bias is None else f", bias {bias.shape}"
        raise ValueError(f"{shapes} do not fit; expected (*b, i), (i, o) and (o,)")
    dtype = jnp.result_type(*(part for part in (x, matrix, bias) if part is not None))
    x, matrix = x.astype(dtype), matrix.astype(dtype)
    bias = jnp.zeros(matrix.shape[1], dtype) if bias is None else bias.astype(dtype)
    if dtype == jnp.bfloat16 and jax.default_backend() == "cpu" and jax.device_count() == 1:
        return _projected(x, matrix, bias)
    return jnp.matmul(x, matrix) + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


@jax.custom_vjp
def _projected(x: Array, matrix: Array, bias: Array) -> Array:
    y = _product(x, matrix, 0) + bias.reshape((1,) * (x.ndim - 1) + bias.shape)
    return y.astype(x.dtype)


def _forward(x: Array, matrix: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    return _projected(x, matrix, bias), (x, matrix)


@jax.jit
def _backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array, Array]:
    x, matrix = saved
    flat = x.reshape(-1, x.shape[-1])
    places = cotangent.reshape(-1, cotangent.shape[-1])
    # Without the constraint XLA lays x out by columns instead of transposing it.
    transposed = with_layout_constraint(flat.T, BY_ROWS)
    of_matrix = _product(transposed, places, 0).astype(matrix.dtype)
    of_bias = _product(jnp.ones((1, len(places)), x.dtype), places, 0)[0].astype(matrix.dtype)
    return _product(cotangent, matrix, 1).astype(x.dtype), of_matrix, of_bias


_projected.defvjp(_forward, _backward)


def _product(left: Array, right: Array, axis: int) -> Array:
    """Sums over the last axis of the left and one axis of the right."""
    axes = (((left.ndim - 1,), (axis,)), ((), ()))
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)
