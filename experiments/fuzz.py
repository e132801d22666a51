"""Feeds damaged files to a reader and counts what it does with them.

    python -m experiments.fuzz pickle --inputs=100000 --seed=0

Input i of a seed is a sound file, changed in a way that seed and i determine. A reader may accept
it or refuse it with its one exception. Anything else counts as a failure: another exception, a
crash of the process, more than 10 seconds, more memory than the bound, or an event of running code.
"""

import argparse
import collections
import json
import signal
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import DataError
from experiments.fuzz_targets import TARGETS

CHUNK = 1000
SECONDS = 10
FREE_BYTES = 40 << 20
BYTES_PER_BYTE = 20
"""Memory that a file may take: so much in any case, and so much for each of its bytes."""

RUNNING = (
    "exec",
    "compile",
    "import",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
)
RESULTS = ("accepted", "refused", "error", "crash", "slow", "memory", "run")
FAILURES = RESULTS[2:]

_events: list[str] = []


class _Slow(BaseException):
    """An input that takes too long; no reader catches it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all inputs; returns 1 where any failed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.fuzz", description=__doc__)
    parser.add_argument("kind", choices=sorted(TARGETS))
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    options = parser.parse_args(arguments)
    report = run(options.kind, options.inputs, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{options.kind}.json"
    file.write_text(json.dumps(report, indent=2) + "\n")
    counts = ", ".join(f"{report[name]} {name}" for name in RESULTS)
    extremes = f"peak {report['peak_bytes'] / 2**20:.1f} MiB, slowest {report['slowest_ms']:.0f} ms"
    print(f"{options.inputs} inputs: {counts}; {extremes}; {file}")
    return int(any(report[name] for name in FAILURES))


def run(kind: str, inputs: int, seed: int) -> dict[str, Any]:
    """Counts the results of all inputs, which are read in a process of their own."""
    report: dict[str, Any] = dict.fromkeys(RESULTS, 0)
    report |= {"kind": kind, "inputs": inputs, "seed": seed, "peak_bytes": 0, "slowest_ms": 0.0}
    report["examples"] = []
    for chunk in _chunks(kind, inputs, seed):
        for name in RESULTS:
            report[name] += chunk["counts"].get(name, 0)
        for name in ("peak_bytes", "slowest_ms"):
            report[name] = max(report[name], chunk.get(name, 0))
        report["examples"] += chunk["examples"]
    report["examples"] = report["examples"][:20]
    return report


def _chunks(kind: str, inputs: int, seed: int) -> Iterator[dict[str, Any]]:
    pool = None
    for start in range(0, inputs, CHUNK):
        pool = pool or ProcessPoolExecutor(1, get_context("spawn"))
        numbers = range(start, min(start + CHUNK, inputs))
        try:
            yield pool.submit(read_inputs, kind, seed, numbers).result()
        except BrokenProcessPool:
            pool = None
            yield {"counts": {"crash": 1}, "examples": [f"crash in inputs {numbers}"]}
    if pool is not None:
        pool.shutdown()


def read_inputs(kind: str, seed: int, numbers: range) -> dict[str, Any]:
    """Reads some of the inputs here; returns counts, extremes and examples of failures."""
    target = TARGETS[kind]
    _watch()
    counts: collections.Counter[str] = collections.Counter()
    report: dict[str, Any] = {"examples": [], "peak_bytes": 0, "slowest_ms": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "input"
        for data in target.seeds():  # imports what is imported once
            file.write_bytes(data)
            target.read(file)
        tracemalloc.start()
        for number in numbers:
            data = target.change(np.random.default_rng((seed, number)))
            file.write_bytes(data)
            result, detail, peak, seconds = _read_one(target.read, file, len(data))
            counts[result] += 1
            report["peak_bytes"] = max(report["peak_bytes"], peak)
            report["slowest_ms"] = max(report["slowest_ms"], 1000 * seconds)
            if result in FAILURES:
                report["examples"].append(f"input {number}: {result}: {detail}")
        tracemalloc.stop()
    return report | {"counts": dict(counts)}


def _read_one(read: Any, file: Path, size: int) -> tuple[str, str, int, float]:
    tracemalloc.reset_peak()
    before, started = tracemalloc.get_traced_memory()[0], time.perf_counter()
    _events.clear()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        read(file)
        result, detail = "accepted", ""
    except DataError as error:
        result, detail = "refused", ""
        if str(file) not in str(error) or "\n" in str(error):
            result, detail = "error", f"a message without its file, or of two lines: {error}"
    except _Slow:
        result, detail = "slow", ""
    except Exception as error:
        result, detail = "error", repr(error)[:200]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.perf_counter() - started
    peak = tracemalloc.get_traced_memory()[1] - before
    if _events:
        result, detail = "run", _events[0]
    elif peak > FREE_BYTES + BYTES_PER_BYTE * size:
        result, detail = "memory", f"{peak} bytes for a file of {size}"
    return result, detail, peak, seconds


def _watch() -> None:
    """Has each event of running code noted, and an alarm stop what is slow; once a process."""
    if signal.getsignal(signal.SIGALRM) is not _stop:
        signal.signal(signal.SIGALRM, _stop)
        sys.addaudithook(_note)


def _stop(*_: object) -> None:
    raise _Slow


def _note(event: str, args: tuple) -> None:
    if event in RUNNING:
        _events.append(f"{event} {args[:1]}")


if __name__ == "__main__":
    sys.exit(main())
