"""Times the convolutions, layer norm and FiLM beside their alternatives.

    python -m experiments.benchmarks.convolution [--quick] [--cases=map_16_3,...] [--out=FILE]

A map case is map_SIZE_TAPS, one that mixes channels mixing_SIZE_TAPS, a layer of 3 x 3 taps
layer_SIZE, a causal one causal_LENGTH_TAPS, a layer norm norm_SIZE. 'lax' is XLA's own convolution,
'flax' the layer of Flax; 'autodiff' is the same sum over taps as the project's, differentiated by
JAX instead of by its own rule; 'copy' is x + 1.
Ratios are to the first row of a case and pass. Backward passes give the gradients of all arrays,
for a random cotangent.
"""

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from common.array_types import Array, PyTree
from common.kernels import (
    causal_conv,
    correlate_2d,
    film,
    layer_norm,
    mixing_conv_2d,
    spectral_conv_2d,
)
from common.kernels.cases import random_array
from common.kernels.reference import widen
from common.kernels.spectral import Boundary
from experiments.benchmarks.timing import (
    Compiled,
    measure_in_turn,
    print_table,
    read_flags,
    write_json,
)

PASSES = ("forward", "forward+backward")
LAX_UP_TO = 25
"""Taps; beyond, XLA's grouped convolution takes seconds a call."""


def grouped_convolution(x: Array, kernel: Array, boundary: str) -> Array:
    """Convolves maps (b, h, w, c) with kernels (c, k, l) through XLA's grouped convolution."""
    padding = [(0, 0), *((k - 1 - k // 2, k // 2) for k in kernel.shape[1:]), (0, 0)]
    return lax.conv_general_dilated(
        jnp.pad(x, padding, mode="wrap" if boundary == "circular" else "constant"),
        jnp.moveaxis(kernel[:, ::-1, ::-1], 0, -1)[:, :, None],
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def grouped_causal_convolution(x: Array, kernel: Array) -> Array:
    """Convolves sequences (b, t, c) with kernels (k, c) through XLA's grouped convolution."""
    return lax.conv_general_dilated(
        x,
        kernel[:, None],
        (1,),
        [(kernel.shape[0] - 1, 0)],
        dimension_numbers=("NHC", "HIO", "NHC"),
        feature_group_count=x.shape[-1],
    )


def add_shifted(x: Array, kernel: Array) -> Array:
    """Convolves sequences (b, t, c) with kernels (k, c) by the sum over shifted copies."""
    taps, length = kernel.shape[0], x.shape[1]
    padded = jnp.pad(x, ((0, 0), (taps - 1, 0), (0, 0)))
    return sum(
        (kernel[j] * padded[:, j : j + length] for j in range(1, taps)),
        start=kernel[0] * padded[:, :length],
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem and the ways to solve it, which take the same arguments.

    Attributes:
        name: what the rows are called.
        shapes: of the arguments.
        variants: functions by name; the first one is what the others are compared with.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    variants: dict[str, Callable[..., Array]]


def map_case(
    size: int, taps: int, batch: int, channels: int, boundary: Boundary = "circular"
) -> Case:
    """Returns the convolution of square maps."""
    variants: dict[str, Callable[..., Array]] = {
        "fft": partial(spectral_conv_2d, boundary=boundary, method="fft"),
        "direct": partial(spectral_conv_2d, boundary=boundary, method="direct"),
    }
    if taps**2 <= LAX_UP_TO:
        variants["lax"] = partial(grouped_convolution, boundary=boundary)
    name = f"map_{size}_{taps}" + ("" if boundary == "circular" else f"_{boundary}")
    return Case(name, ((batch, size, size, channels), (channels, taps, taps)), variants)


def causal_case(length: int, taps: int, batch: int, channels: int) -> Case:
    """Returns the causal convolution of sequences."""
    variants: dict[str, Callable[..., Array]] = {
        "own": causal_conv,
        "autodiff": add_shifted,
        "lax": grouped_causal_convolution,
    }
    return Case(f"causal_{length}_{taps}", ((batch, length, channels), (taps, channels)), variants)


def dense_correlation(x: Array, kernel: Array) -> Array:
    """Correlates maps (b, h, w, c) with kernels (k, k, c, d), zeros around, through XLA's own."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def one_by_one(layer: Callable[..., Array], x: Array, *others: Array) -> Array:
    """Applies a layer to one map after the other."""
    return lax.map(lambda single: layer(single[None], *others)[0], x)


def mixing_case(size: int, taps: int, batch: int, channels: int) -> Case:
    """Returns the convolution of square maps from all channels to all channels."""
    shapes = ((batch, size, size, channels), (taps, taps, channels, channels))
    ways: dict[str, Callable[..., Array]] = {
        "fft": partial(mixing_conv_2d, boundary="zero"),
        "lax": lambda x, kernel: dense_correlation(x, kernel[::-1, ::-1]),
    }
    return Case(f"mixing_{size}_{taps}", shapes, ways)


def layer_case(size: int, batch: int, channels: int) -> Case:
    """Returns the 3 x 3 layer of a neural network, for all maps at once and one after the other."""
    shapes = ((batch, size, size, channels), (3, 3, channels, channels))
    ways: dict[str, Callable[..., Array]] = {
        "own": correlate_2d,
        "lax": dense_correlation,
        "own, in a loop": partial(one_by_one, correlate_2d),
        "lax, in a loop": partial(one_by_one, dense_correlation),
    }
    return Case(f"layer_{size}", shapes, ways)


def norm_case(size: int, batch: int, channels: int) -> Case:
    """Returns the layer norm of maps, for all at once and one after the other."""
    shapes = ((batch, size, size, channels), (channels,), (channels,))
    ways: dict[str, Callable[..., Array]] = {
        "own": layer_norm,
        "flax": flax_layer_norm,
        "own, in a loop": partial(one_by_one, layer_norm),
        "flax, in a loop": partial(one_by_one, flax_layer_norm),
    }
    return Case(f"norm_{size}", shapes, ways)


def flax_layer_norm(x: Array, scale: Array, offset: Array) -> Array:
    """Normalises over channels by the layer of Flax."""
    y: Any = nn.LayerNorm().apply({"params": {"scale": scale, "bias": offset}}, x)
    return y


def film_case(size: int, batch: int, channels: int) -> Case:
    """Returns FiLM of maps by one vector a sample, beside a copy of them."""
    shapes = ((batch, size, size, channels), (batch, channels), (batch, channels))
    return Case(f"film_{size}", shapes, {"film": film, "copy": lambda x, gamma, beta: x + 1})


CASES = (
    *(map_case(16, taps, 8, 32) for taps in (1, 3, 5, 7, 9, 15)),
    *(map_case(32, taps, 8, 64) for taps in (3, 5, 7, 9, 15)),
    *(map_case(56, taps, 4, 64) for taps in (3, 7, 9)),
    *(map_case(32, taps, 8, 64, "zero") for taps in (3, 7, 9)),
    *(causal_case(128, taps, 8, 128) for taps in (3, 4, 16)),
    *(causal_case(1024, taps, 4, 256) for taps in (4, 16)),
    *(mixing_case(16, taps, 8, 32) for taps in (3, 7, 15)),
    layer_case(32, 32, 32),
    layer_case(64, 16, 64),
    norm_case(64, 16, 32),
    norm_case(128, 16, 64),
    film_case(32, 8, 64),
)
QUICK = ("map_16_3", "map_16_9", "causal_128_4", "film_32")


def main() -> int:
    """Runs the command line."""
    cases = {case.name: case for case in CASES}
    names, _, quick, out = read_flags(
        "Times convolutions, layer norm and FiLM.",
        list(cases),
        QUICK,
        "runs/benchmarks/convolution.json",
    )
    rows = []
    for name in names:
        rows += time_case(cases[name], 5 if quick else 15)
    write_json(out, rows)
    return 0


def time_case(case: Case, repeats: int) -> list[dict[str, Any]]:
    """Times one case in every way, forward and backward, and prints the rows."""
    rng = np.random.default_rng(0)
    arguments = [jnp.asarray(random_array(rng, shape, "float32")) for shape in case.shapes]
    weights = jnp.asarray(random_array(rng, case.shapes[0], "float32"))
    rows = []
    for name in PASSES:
        ways = {v: solve(f, name == PASSES[1]) for v, f in case.variants.items()}
        compiled = {v: Compiled(f, weights, *arguments) for v, f in ways.items()}
        results = measure_in_turn(list(compiled.values()), repeats)
        exact = solve_exactly(next(iter(ways.values())), [weights, *arguments])
        for (variant, function), result in zip(compiled.items(), results, strict=True):
            rows.append({"case": case.name, "pass": name, "variant": variant} | vars(result))
            rows[-1]["cpu_ratio_to_first"] = results[0].cpu_ms / result.cpu_ms
            if variant != "copy":
                rows[-1]["error"] = largest_error(function.result(), exact)
    print_table(rows)
    return rows


def solve(function: Callable[..., Array], backward: bool) -> Callable[..., PyTree]:
    """Returns a function of a cotangent and the arguments: the result, perhaps with gradients."""

    def with_gradients(weights: Array, *arguments: Array) -> PyTree:
        y, pullback = jax.vjp(function, *arguments)
        return y, pullback(weights)

    return with_gradients if backward else lambda weights, *arguments: function(*arguments)


def solve_exactly(function: Callable[..., PyTree], arguments: list[Array]) -> PyTree:
    """Returns the same in float64, as NumPy arrays."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(function)(*map(widen, arguments)))


def largest_error(actual: PyTree, expected: PyTree) -> float:
    """Returns the largest error of an array, relative to that array's largest value."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return max(float(np.abs(np.asarray(x) - y).max() / np.abs(y).max()) for x, y in pairs)


if __name__ == "__main__":
    sys.exit(main())
