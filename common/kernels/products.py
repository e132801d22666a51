"""Products of matrices that lie in memory as a CPU multiplies them fastest.

    y = x W + b,   dx = dy W',   dW = x' dy,   db = 1' dy
    C = A B,       dA = dC B',   dB = A' dC
    C = A B',      dA = dC B,    dB = dC' A

XLA's CPU back end multiplies matrices of bfloat16 in the processor's own units (AMX) where the
result is in float32, the left matrix lies row after row and its rows are summed over. A product
whose result is in bfloat16, and one that sums over the columns of both, goes slower than in
float32, where the latter takes a tenth longer. So results are rounded after the product,
and what would be summed over its columns is written out transposed: of A' B the smaller of A, and
of B with the result. Sums over places, as db is, go number by number where a loop is around them;
as products with ones they do not. All this holds for one device; several, over which arrays may
be divided, are left to XLA. Forward mode can be taken of their gradients (`jax.jvp` of
`jax.grad`), not of the products themselves.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from common.array_types import Array, Float

ONES = 8
"""Rows of ones that sum a matrix of bfloat16: with a single one, XLA would write it in float32."""


def project(
    x: Float[Array, "*b i"],
    matrix: Float[Array, "i o"],
    bias: Float[Array, "o"] | None = None,
    dtype: Any = None,
) -> Float[Array, "*b o"]:
    """Returns x @ matrix + bias, summed in float32 at least.

    Gradients of a float32 matrix and bias are not rounded on their way through bfloat16, where the
    CPU's own products are at work. Times: `experiments.benchmarks.language`, case projection.

    Args:
        x: channels last.
        matrix: a column for each channel of the result.
        bias: summand of each channel.
        dtype: of what is multiplied, and of the result; what all promote to by default.

    Raises:
        ValueError: channels that do not fit.
    """
    fits = matrix.ndim == 2 and x.shape[-1:] == matrix.shape[:1]
    if not fits or (bias is not None and bias.shape != matrix.shape[1:]):
        shapes = f"x {x.shape}, matrix {matrix.shape}"
        shapes += "" if bias is None else f", bias {bias.shape}"
        raise ValueError(f"{shapes} do not fit; expected (*b, i), (i, o) and (o,)")
    if dtype is None:
        dtype = jnp.result_type(*(part for part in (x, matrix, bias) if part is not None))
    x = x.astype(dtype)
    bias = jnp.zeros(matrix.shape[1], matrix.dtype) if bias is None else bias
    if _own_gradient(dtype):
        return _projected(x, matrix, bias)
    return jnp.matmul(x, matrix.astype(dtype)) + _row(bias.astype(dtype), x)


def product(
    a: Float[Array, "*b i k"], b: Float[Array, "*b k j"], dtype: Any = None
) -> Float[Array, "*b i j"]:
    """Returns A B for every b, summed in float32 at least.

    Args:
        a: left matrices; fastest where they lie `by_rows`.
        b: right matrices, of the same dtype.
        dtype: of the result; that of the matrices by default.
    """
    wanted = a.dtype if dtype is None else dtype
    found = _product(a, b) if _own_gradient(a.dtype) else _summed(a, b, -2)
    return found.astype(wanted)


def product_transposed(
    a: Float[Array, "*b i k"], b: Float[Array, "*b j k"], dtype: Any = None
) -> Float[Array, "*b i j"]:
    """Returns A B' for every b, summed in float32 at least; arguments as for `product`."""
    wanted = a.dtype if dtype is None else dtype
    found = _product_transposed(a, b) if _own_gradient(a.dtype) else _summed(a, b, -1)
    return found.astype(wanted)


def by_rows(x: Float[Array, "*b i j"]) -> Float[Array, "*b i j"]:
    """Returns x written out with its last axis innermost, where XLA would only rename its axes."""
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return x
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def _own_gradient(dtype: Any) -> bool:
    """Tells whether the gradient's products need to be written out."""
    known = dtype in (jnp.bfloat16, jnp.float32)
    return known and jax.default_backend() == "cpu" and jax.device_count() == 1


def _summed(left: Array, right: Array, axis: int) -> Array:
    """Sums in float32 over the last axis of the left and one of the right's last two."""
    shared = tuple(range(right.ndim - 2))
    axes = (((left.ndim - 1,), (right.ndim + axis,)), (shared, shared))
    wide = jnp.promote_types(left.dtype, jnp.float32)
    return jax.lax.dot_general(left, right, axes, preferred_element_type=wide)


def _row(bias: Array, like: Array) -> Array:
    return bias.reshape((1,) * (like.ndim - 1) + bias.shape)


def _turned(x: Array) -> Array:
    return by_rows(jnp.swapaxes(x, -1, -2))


def _over_rows(a: Array, b: Array, dtype: Any) -> Array:
    """Returns A' B; written out turned is A, or B with the result where these are smaller."""
    rows, i, j = *a.shape[-2:], b.shape[-1]
    if j * (rows + i) < rows * i:
        # In float32 XLA would take the turned result into the product, which is slow.
        found = jax.lax.optimization_barrier(_summed(_turned(b), a, -2))
        return jnp.swapaxes(found.astype(dtype), -1, -2)
    return _summed(_turned(a), b, -2).astype(dtype)


def _affine(x: Array, matrix: Array, bias: Array) -> Array:
    return (_summed(x, matrix.astype(x.dtype), -2) + _row(bias, x)).astype(x.dtype)


_projected = jax.custom_vjp(_affine)


def _projected_forward(
    x: Array, matrix: Array, bias: Array
) -> tuple[Array, tuple[Array, Array, Array]]:
    return _affine(x, matrix, bias), (x, matrix, bias)


@jax.jit
def _projected_backward(
    saved: tuple[Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, Array]:
    x, matrix, bias = saved
    places = cotangent.reshape(-1, cotangent.shape[-1])
    of_matrix = _over_rows(x.reshape(-1, x.shape[-1]), places, matrix.dtype)
    of_bias = _summed(jnp.ones((ONES, len(places)), x.dtype), places, -2)[0]
    of_x = _summed(cotangent, matrix.astype(x.dtype), -1)
    return of_x.astype(x.dtype), of_matrix, of_bias.astype(bias.dtype)


_projected.defvjp(_projected_forward, _projected_backward)


_product = jax.custom_vjp(partial(_summed, axis=-2))
_product_transposed = jax.custom_vjp(partial(_summed, axis=-1))


def _forward(axis: int, a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return _summed(a, b, axis), (a, b)


@jax.jit
def _backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    a, b = saved
    cotangent = cotangent.astype(a.dtype)
    return _summed(cotangent, b, -1).astype(a.dtype), _over_rows(a, cotangent, b.dtype)


@jax.jit
def _backward_transposed(saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    a, b = saved
    cotangent = cotangent.astype(a.dtype)
    return _summed(cotangent, b, -2).astype(a.dtype), _over_rows(cotangent, a, b.dtype)


_product.defvjp(partial(_forward, -2), _backward)
_product_transposed.defvjp(partial(_forward, -1), _backward_transposed)
