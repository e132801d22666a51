"""Section on sequential and parallel scans: the same numbers, and what each costs."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from common.analysis import Page, cost_over_length, count_flops
from common.kernels import linear_scan
from common.kernels.cases import BENCHMARK_CASES, coupled_arguments
from experiments.analyses.subject import Subject
from experiments.benchmarks.timing import Compiled, measure_in_turn

LENGTHS = (2, 4, 8, 16, 32, 64)
BACKENDS = ("sequential", "associative")
NAMES = {"sequential": "one step after the other", "associative": "associative scan"}


class ScanCost(NamedTuple):
    """What solving the Q/K/A recurrence costs with one back end.

    Attributes:
        steps: length T.
        backend: 'sequential' or 'associative'.
        depth: combinations that must follow one another, however many processors there are.
        mflops: all operations, millions, as XLA counts them.
        wall_ms: measured time, milliseconds.
        temporary_mb: memory beside arguments and results, megabytes.
        difference: largest difference from the sequential states, share of their largest.
    """

    steps: int
    backend: str
    depth: int
    mflops: float
    wall_ms: float
    temporary_mb: float
    difference: float


def scan_depth(steps: int, backend: str) -> int:
    """Returns how many combinations follow one another.

    One for each step, or, in the tree of `jax.lax.associative_scan`, one for each level on the way
    up and on the way down: 2 floor(log2 T) - 1 for powers of two from 4 on.
    """
    if backend == "sequential":
        return steps
    if steps < 2:
        return 0
    return 1 + scan_depth(steps // 2, backend) + (1 if steps > 2 else 0)


def scan_costs(lengths: Sequence[int] = LENGTHS, repeats: int = 3) -> list[ScanCost]:
    """Measures both back ends on maps of 16 x 16 cells and 32 channels, one image.

    Args:
        lengths: numbers of steps.
        repeats: samples of the time.
    """
    shape = next(case for case in BENCHMARK_CASES if case.name == "model")
    rows = []
    for steps in lengths:
        case = dataclasses.replace(shape, steps=steps, batch=(1, *shape.batch[1:]), gain=0.8)
        transition, inputs, _ = coupled_arguments(case)
        functions: list[Any] = [
            lambda m, b, backend=backend: linear_scan(m, b, backend=backend)  # type: ignore[arg-type]
            for backend in BACKENDS
        ]
        compiled = [Compiled(function, transition, inputs) for function in functions]
        results = [np.stack([np.asarray(s) for s in one.result()]) for one in compiled]
        measured = measure_in_turn(compiled, repeats)
        for i, backend in enumerate(BACKENDS):
            error = np.abs(results[i] - results[0]).max() / np.abs(results[0]).max()
            flops = count_flops(functions[i], transition, inputs) / 1e6
            rows.append(
                ScanCost(
                    steps, backend, scan_depth(steps, backend), flops,
                    measured[i].wall_ms, measured[i].temporary_mb, float(error),
                )
            )  # fmt: skip
    return rows


def draw_scan_costs(rows: Sequence[ScanCost]) -> Figure:
    """Draws depth, work, time and memory over the length."""
    lengths = sorted({row.steps for row in rows})

    def of(field: str) -> dict[str, list[float]]:
        return {
            NAMES[backend]: [getattr(row, field) for row in rows if row.backend == backend]
            for backend in BACKENDS
        }

    return cost_over_length(
        lengths,
        {
            "depth (steps in a row)": of("depth"),
            "work (Mflop)": of("mflops"),
            "time here (ms)": of("wall_ms"),
            "memory (MB)": of("temporary_mb"),
        },
    )


def add_scan_costs(page: Page, subject: Subject) -> None:
    """Adds what sequential and parallel solutions cost on this machine."""
    if not subject.spectral_blocks:
        return
    rows = scan_costs()
    last = {row.backend: row for row in rows if row.steps == max(LENGTHS)}
    one, other = last["sequential"], last["associative"]
    worst = max(row.difference for row in rows)
    page.section("One step after the other, or all at once")
    page.paragraph(
        "The recurrence is linear, so that it can be solved by an associative scan. Both ways give "
        f"the same numbers, up to {worst:.0e} of the largest. The scan is not less work: at "
        f"{one.steps} steps it takes {other.mflops / one.mflops:.1f} times the operations and "
        f"{other.temporary_mb / max(one.temporary_mb, 1e-3):.0f} times the memory, since it "
        "multiplies matrices where a step multiplies a vector. What it has less of is depth, "
        f"{other.depth} combinations in a row instead of {one.depth}, which pays where thousands "
        f"of processors wait for each other. On this machine it took {other.wall_ms:.0f} ms "
        f"against {one.wall_ms:.0f}."
    )
    page.figure(draw_scan_costs(rows), "scan_cost", "Depth, work, time and memory over the length")
