"""Times the back ends of `linear_scan` beside each other on the shapes of the Q/K/A block.

    python -m experiments.benchmarks.scan [--quick] [--out=FILE]

The reference is 'associative': `lax.associative_scan` over dense 3 x 3 matrices.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from common.kernels import linear_scan
from common.kernels.cases import BENCHMARK_CASES, ScanCase, coupled_arguments
from common.kernels.scan import Backend
from experiments.benchmarks.timing import Compiled, measure_in_turn, write_json

BACKENDS: tuple[Backend, ...] = ("associative", "sequential")
PASSES = ("forward", "forward+backward")


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Times the back ends of linear_scan.")
    parser.add_argument("--quick", action="store_true", help="the last case alone, three repeats")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/scan.json"))
    flags = parser.parse_args()
    cases = BENCHMARK_CASES[-1:] if flags.quick else BENCHMARK_CASES
    rows = [row for case in cases for row in time_case(case, 3 if flags.quick else 9)]
    write_json(flags.out, rows)
    return 0


def time_case(case: ScanCase, repeats: int) -> list[dict[str, Any]]:
    """Times one case with every back end, forward and backward, and prints the rows."""
    rows = []
    for name in PASSES:
        functions = [pass_of(name, case, backend) for backend in BACKENDS]
        arguments = coupled_arguments(case)
        results = measure_in_turn([Compiled(f, *arguments) for f in functions], repeats)
        for backend, result in zip(BACKENDS, results, strict=True):
            row: dict[str, Any] = {"case": case.name, "pass": name, "backend": backend}
            row |= dataclasses.asdict(result)
            row["cpu_ratio_to_associative"] = results[0].cpu_ms / result.cpu_ms
            rows.append(row)
            print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else v for k, v in row.items()))
    return rows


def pass_of(name: str, case: ScanCase, backend: Backend) -> Callable[..., Any]:
    """Returns the scan of a case, or the gradient of a sum over it in every array."""

    def forward(transition, inputs, initial):
        return linear_scan(transition, inputs, initial, backend=backend, output=case.output)

    def loss(*arguments):
        return sum(jnp.sum(s.real**2 + s.imag**2) for s in forward(*arguments))

    def backward(*arguments):
        return jax.grad(loss, argnums=(0, 1))(*arguments)

    return forward if name == "forward" else backward


if __name__ == "__main__":
    sys.exit(main())
