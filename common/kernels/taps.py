"""Depthwise sums over taps, y[i, j] = sum_pq kernel[p, q] x[i + p, j + q], with their own VJP.

Shifted copies of x are multiplied and added, channels last: XLA makes one vectorised loop of that.
Autodiff of it stores a product for every tap and reduces each by itself; here the kernel's gradient
walks over x in blocks of 16 positions and adds to all taps at once. On a CPU, in processor time
(`experiments.benchmarks.convolution`, causal convolution of (4, 1024, 256), two busy cores of an
Intel Xeon at 2.1 GHz, jax 0.10.2; forward / forward and backward, memory of the latter):

    taps   this                    autodiff                XLA's grouped convolution
       4   2.1 /  6.3 ms, 13 MB    1.7 /  8.3 ms, 13 MB    74 / 196 ms, 2 MB
      16   2.7 / 12.3 ms, 13 MB    2.3 / 59.8 ms, 63 MB    89 / 307 ms, 8 MB
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from common.array_types import Array, Inexact

BLOCK = 16
"""Positions whose products are added before they meet the running sums."""


@jax.custom_vjp
@jax.jit
def correlate_taps(
    x: Inexact[Array, "b hk wl c"], kernel: Inexact[Array, "k l c"]
) -> Inexact[Array, "b h w c"]:
    """Slides kernels over maps of their own channel, where they fit whole; no flip.

    Args:
        x: maps of (h + k - 1, w + l - 1), padded by the caller as the boundary wants it.
        kernel: one kernel a channel, of the dtype of x.
    """
    taps, columns, _ = kernel.shape
    x, kernel = _settled(x), _settled(kernel)[:, :, None, None, None]
    height, width = x.shape[1] - taps + 1, x.shape[2] - columns + 1
    rows = [
        _add([kernel[p, q] * x[:, p : p + height, q : q + width] for q in range(columns)])
        for p in range(taps)
    ]
    return _add(rows)


@jax.jit
def _settled(x: Array) -> Array:
    """Returns x computed and laid out with the channels contiguous, before its use.

    Else padding, reversal and transposition that lie behind it are done again for every tap, or the
    kernel is read with the stride of another layout: up to 8 times slower on a CPU.
    """
    return lax.optimization_barrier(with_layout_constraint(x, Layout(tuple(range(x.ndim)))))


def _add(terms: list[Array]) -> Array:
    return sum(terms[1:], start=terms[0])


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return correlate_taps(x, kernel), (x, kernel)


def _backward(residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    down, across = (taps - 1 for taps in kernel.shape[:2])
    padded = jnp.pad(cotangent, ((0, 0), (down, down), (across, across), (0, 0)))
    d_x = correlate_taps(padded, kernel[::-1, ::-1])
    d_kernel = lax.platform_dependent(x, cotangent, cpu=sum_in_blocks, default=sum_by_tap)
    return _settled(d_x), d_kernel


correlate_taps.defvjp(_forward, _backward)


def sum_by_tap(
    x: Inexact[Array, "b hk wl c"], weights: Inexact[Array, "b h w c"]
) -> Inexact[Array, "k l c"]:
    """Returns sum_bij weights[b, i, j] x[b, i + p, j + q] for every tap, one after the other."""
    (_, height, width, _), (_, h, w, _) = x.shape, weights.shape
    rows = [
        [jnp.sum(weights * x[:, p : p + h, q : q + w], (0, 1, 2)) for q in range(width - w + 1)]
        for p in range(height - h + 1)
    ]
    return jnp.stack([jnp.stack(row) for row in rows])


def sum_in_blocks(
    x: Inexact[Array, "b hk wl c"], weights: Inexact[Array, "b h w c"]
) -> Inexact[Array, "k l c"]:
    """Returns the sums of `sum_by_tap`, for all taps at once in a loop over blocks of positions."""
    batch, height, width, channels = weights.shape
    taps = (x.shape[1] - height + 1, x.shape[2] - width + 1)
    rows, columns = _block_shape(height, width)
    down, across = -(-height // rows), -(-width // columns)
    padding = ((0, 0), (0, down * rows - height), (0, across * columns - width), (0, 0))
    x, weights = _settled(jnp.pad(x, padding)), _settled(jnp.pad(weights, padding))
    near = (batch, rows + taps[0] - 1, columns + taps[1] - 1, channels)

    def add_block(sums: Array, index: Array) -> tuple[Array, None]:
        corner = (0, index // across * rows, index % across * columns, 0)
        block = lax.dynamic_slice(weights, corner, (batch, rows, columns, channels))
        around = lax.dynamic_slice(x, corner, near)
        terms = [
            block[:, i : i + 1, j : j + 1] * around[:, i : i + taps[0], j : j + taps[1]]
            for i in range(rows)
            for j in range(columns)
        ]
        return sums + _add(terms), None

    zeros = jnp.zeros((batch, *taps, channels), jnp.result_type(x, weights))
    return lax.scan(add_block, zeros, jnp.arange(down * across))[0].sum(0)


def _block_shape(height: int, width: int) -> tuple[int, int]:
    """Returns rows and columns of a block, as square as the map allows."""
    columns = min(width, 4) if height >= 4 else min(width, BLOCK // height)
    return min(height, BLOCK // columns), columns
