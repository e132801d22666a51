"""Measures compiled functions."""

import argparse
import dataclasses
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from common.compiled import temporary_bytes
from common.train import describe_environment


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What one call of a compiled function costs.

    Attributes:
        wall_ms: median wall time, milliseconds.
        cpu_ms: median processor time of the whole process, milliseconds.
        temporary_mb: memory for intermediates by the compiler's own account, megabytes.
        compile_s: wall time of the compilation, seconds.
        compile_cpu_s: processor time of the compilation, seconds.
    """

    wall_ms: float
    cpu_ms: float
    temporary_mb: float
    compile_s: float
    compile_cpu_s: float


SAMPLE_S = 0.05


class Compiled:
    """A function compiled for its arguments.

    A sample is the mean of as many calls in a row as take `SAMPLE_S`: what a loop meets that calls
    it again and again, with its code and as much of its data in the caches as fits.

    Args:
        function: what to compile.
        arguments: what to call it with.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        lowered = jax.jit(function).lower(*arguments)
        wall, cpu = time.perf_counter(), time.process_time()
        self._call = lowered.compile()
        self._compile_s = time.perf_counter() - wall
        self._compile_cpu_s = time.process_time() - cpu
        self._arguments = arguments
        self._wall: list[float] = []
        self._cpu: list[float] = []
        self._calls = 1
        self.time_once()
        self._calls = max(1, math.ceil(SAMPLE_S / self._wall[0]))
        self._wall, self._cpu = [], []

    def time_once(self) -> None:
        """Takes one sample of the times."""
        jax.block_until_ready(self._call(*self._arguments))
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(self._calls):
            jax.block_until_ready(self._call(*self._arguments))
        self._wall.append((time.perf_counter() - wall) / self._calls)
        self._cpu.append((time.process_time() - cpu) / self._calls)

    def result(self) -> Any:
        """Returns what the function returns."""
        return self._call(*self._arguments)

    def measurement(self) -> Measurement:
        """Returns the medians of the samples so far."""
        return Measurement(
            1e3 * statistics.median(self._wall),
            1e3 * statistics.median(self._cpu),
            temporary_bytes(self._call) / 1e6,
            self._compile_s,
            self._compile_cpu_s,
        )


def measure_in_turn(compiled: Sequence[Compiled], repeats: int) -> list[Measurement]:
    """Times every function `repeats` times, one after the other, so that all meet the same load."""
    for _ in range(repeats):
        for function in compiled:
            function.time_once()
    return [function.measurement() for function in compiled]


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Prints rows of equal keys below each other, and those that lack them as sentences."""
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "unavailable"))
    cells = [[_cell(row.get(key, "")) for key in keys] for row in rows if "unavailable" not in row]
    widths = [max(len(line[i]) for line in [keys, *cells]) for i in range(len(keys))]
    for line in [keys, *cells]:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    for row in rows:
        if "unavailable" in row:
            *names, reason = (str(value) for value in row.values())
            print(f"{', '.join(names)}: {reason}")
    print(flush=True)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class Flags(NamedTuple):
    """What the command line of a benchmark says.

    Attributes:
        cases: names of the chosen cases, in their own order.
        models: likewise of the models, where a benchmark has any.
        quick: whether --quick was given.
        out: the JSON file to write.
    """

    cases: list[str]
    models: list[str]
    quick: bool
    out: Path


def read_flags(
    description: str,
    cases: Sequence[str],
    quick: Sequence[str],
    out: str,
    models: Sequence[str] = (),
) -> Flags:
    """Reads the command line that the benchmarks share.

    Args:
        description: what is timed.
        cases: names of all cases.
        quick: names of those that --quick takes.
        out: default of --out, a JSON file.
        models: names of all models; without any there is no --models.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="few cases, fewer repeats")
    parser.add_argument("--cases", help="names of cases, with commas between them")
    parser.add_argument("--out", type=Path, default=Path(out))
    if models:
        parser.add_argument("--models", help="names of models, with commas between them")
    flags = parser.parse_args()

    def chosen(kind: str, names: str | None, known: Sequence[str]) -> list[str]:
        wanted = set(names.split(",")) if names else set(known)
        if unknown := wanted - set(known):
            parser.error(f"no {kind} {sorted(unknown)}; there are {list(known)}")
        return [name for name in known if name in wanted]

    names = flags.cases or (",".join(quick) if flags.quick else None)
    return Flags(
        chosen("case", names, cases),
        chosen("model", getattr(flags, "models", None), models),
        flags.quick,
        flags.out,
    )


def write_json(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes rows and a description of the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": describe_environment(), "rows": rows}, indent=2))
    print(f"wrote {path}")
