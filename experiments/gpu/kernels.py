"""Times the kernels on a GPU, beside what its arithmetic and its memory allow.

    python -m experiments.gpu.kernels [--out=FILE]

The roofline of a kernel is the longer of two times: of its operations at the rate of a product of
large matrices, and of the bytes that it must read and write at the rate of x + 1 over 1 GiB, both
measured here in the same process. Recurrences: every back end of `linear_scan` that the device has,
with 'V1', the associative scan over dense matrices, and their errors against float64. Medians of
samples in turn. For a recurrence the bytes alone count: it has some 50 operations for 24 of them.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp

from common.array_types import Array
from common.kernels import correlate_2d, film, layer_norm, real_inverse_fft2
from common.kernels.cases import ScanCase
from common.kernels.scan import Backend
from experiments.benchmarks.scan import PASSES, Problem
from experiments.benchmarks.timing import Compiled, measure_in_turn, print_table
from experiments.gpu.bare import without_native_code
from experiments.gpu.records import on_gpu, peak_bytes, write_record

OUT = Path("runs/gpu/kernels.json")
REPEATS = 9
BACKENDS = ("V1", *(name for name in get_args(Backend) if name not in ("auto", "native")))
LARGE, SMALL = 2**28, 2**18
"""Numbers in the copy, on a GPU and without."""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Times the kernels beside their rooflines.")
    parser.add_argument("--out", type=Path, default=OUT)
    flags = parser.parse_args(argv)
    with without_native_code():
        rates = measure_rates()
        rows = [row for case in scan_cases() for row in time_scan(case, rates)]
        rows += [time_layer(name, *layer, rates) for name, layer in layers().items()]
    print_table([{k: v for k, v in row.items() if k != "compile_cpu_s"} for row in rows])
    write_record(flags.out, rates=rates, rows=rows, peak_bytes=peak_bytes())
    return 0


def scan_cases() -> list[ScanCase]:
    """Returns recurrences of the sizes of Pathfinder-14, of long videos, and of one in between."""
    options: dict[str, Any] = {"states": 3, "dtype": "complex64"}
    if not on_gpu():
        return [ScanCase("tiny", 8, (1, 4, 3, 8), **options)]
    return [
        ScanCase("pathfinder", 8, (64, 32, 17, 64), output="last", **options),
        ScanCase("frames_128", 128, (2, 32, 17, 64), gain=0.6, **options),
        ScanCase("frames_1024", 1024, (1, 16, 9, 64), gain=0.6, **options),
    ]


def measure_rates() -> dict[str, float]:
    """Returns operations a second by dtype of the factors, and bytes a second of a copy."""
    size = 8192 if on_gpu() else 512
    found = {}
    for dtype in ("float32", "bfloat16"):
        square = jnp.ones((size, size), dtype)
        with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
            (time,) = measure_in_turn([Compiled(jnp.matmul, square, square)], REPEATS)
        found[dtype] = 2 * size**3 / (1e-3 * time.wall_ms)
    numbers = jnp.zeros(LARGE if on_gpu() else SMALL, jnp.float32)
    (time,) = measure_in_turn([Compiled(lambda x: x + 1, numbers)], REPEATS)
    return found | {"bytes": 2 * numbers.nbytes / (1e-3 * time.wall_ms)}


def time_scan(case: ScanCase, rates: dict[str, float]) -> list[dict[str, Any]]:
    """Times a recurrence with every back end, forward and backward."""
    rows: list[dict[str, Any]] = []
    for name in PASSES:
        problem = Problem(case, backward=name == PASSES[1])
        compiled: dict[str, Compiled] = {"copy": problem.compiled_copy()}
        for backend in BACKENDS:
            label = {"kernel": f"scan {case.name}", "pass": name, "variant": backend}
            try:
                compiled[backend] = problem.compiled(backend)
            except Exception as error:  # what a compiler refuses is a result too
                rows.append(label | {"unavailable": (str(error).splitlines() or ["?"])[0][:200]})
        found = measure_in_turn(list(compiled.values()), REPEATS)
        results = dict(zip(compiled, found, strict=True))
        moved = sum(x.nbytes for x in (*problem.leaves, *problem.weights))
        moved += moved if problem.backward else 0
        for variant, result in results.items():
            row = {"kernel": f"scan {case.name}", "pass": name, "variant": variant}
            row |= vars(result) | problem.comparison(results, variant, compiled[variant])
            rows.append(row | roofline(result.wall_ms, 0.0, moved, rates))
    return rows


def layers() -> dict[str, tuple[Callable[..., Array], tuple[Array, ...], float]]:
    """Returns what is left of a step: functions, their arguments and their operations."""
    b, side, c = (64, 128, 64) if on_gpu() else (1, 16, 8)
    maps = jnp.ones((b, side, side, c))
    small = maps[:, : side // 4, : side // 4]
    scale, kernel = jnp.ones(c), jnp.ones((3, 3, c, c))
    cells = small[0, :, :, 0].size
    transform = 2.5 * b * c * cells * jnp.log2(cells).item()

    def there_and_back(x: Array) -> Array:
        return real_inverse_fft2(jnp.fft.rfft2(x, axes=(1, 2)), (side // 4, side // 4))

    return {
        "layer norm": (layer_norm, (maps, scale, scale), 8.0 * maps.size),
        "film": (film, (maps, jnp.ones((b, c)), jnp.ones((b, c))), 2.0 * maps.size),
        "3 x 3 convolution": (correlate_2d, (maps, kernel), 18.0 * maps.size * c),
        "3 x 3 convolution, bfloat16": (
            correlate_2d,
            (maps.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)),
            18.0 * maps.size * c,
        ),
        "transform and back": (there_and_back, (small,), 2 * transform),
    }


def time_layer(
    name: str,
    function: Callable[..., Array],
    arguments: tuple[Array, ...],
    operations: float,
    rates: dict[str, float],
) -> dict[str, Any]:
    """Times a function with the gradients of all its arguments, taken as twice its work."""

    def with_gradients(*arguments: Array) -> Any:
        out, pull_back = jax.vjp(function, *arguments)
        return out, pull_back(out)

    row = {"kernel": name, "pass": PASSES[1], "variant": "own"}
    try:
        (time,) = measure_in_turn([Compiled(with_gradients, *arguments)], REPEATS)
    except Exception as error:
        return row | {"unavailable": (str(error).splitlines() or ["?"])[0][:200]}
    moved = 2 * (sum(x.nbytes for x in arguments) + arguments[0].nbytes)
    dtype = str(arguments[0].dtype)
    return row | vars(time) | roofline(time.wall_ms, 3 * operations, moved, rates, dtype)


def roofline(
    wall_ms: float,
    operations: float,
    moved: float,
    rates: dict[str, float],
    dtype: str = "float32",
) -> dict[str, float]:
    """Returns the least time at the measured rates, and which share of the time that is."""
    least = 1e3 * max(operations / rates[dtype], moved / rates["bytes"])
    return {
        "gigabytes_per_second": 1e-6 * moved / wall_ms,
        "teraflops": 1e-9 * operations / wall_ms,
        "roofline_ms": least,
        "roofline_share": least / wall_ms,
    }


if __name__ == "__main__":
    sys.exit(main())
