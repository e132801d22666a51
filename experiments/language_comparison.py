r"""Does a short causal convolution replace attention layers? Trains the models and writes a page.

    python -m experiments.language_comparison --out=runs/language_comparison \
        [--text=FOLDER] [--seeds=0,1,2] [--processes=2] [--steps=N]

Runs that are done are kept; the same command goes on where it stopped. The page,
language_comparison.html, is written at the end, and with --page of the runs that there are.
"""

import argparse
import concurrent.futures
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from experiments.comparisons.language import Member, members


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(description="Compares language models over seeds.")
    parser.add_argument("--out", type=Path, default=Path("runs/language_comparison"))
    parser.add_argument(
        "--text", type=Path, help="folder with wiki.{train,valid,test}.raw; made-up text if absent"
    )
    parser.add_argument("--seeds", default="0,1,2", help="numbers with commas between them")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time (%(default)s)")
    parser.add_argument("--steps", type=int, help="steps of every run, to try things out")
    parser.add_argument("--page", action="store_true", help="write the page of what is there")
    flags = parser.parse_args(argv)
    try:
        return _compare(flags)
    except UserError as error:
        print("error:", error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


def _compare(flags: argparse.Namespace) -> int:
    from experiments.reports.language_comparison import write_page

    chosen = members(_seeds(flags.seeds), _text(flags.text), _quick(flags.steps))
    if flags.processes < 1:
        raise UserError(f"--processes is {flags.processes}; expected 1 or more")
    chosen[0].config()  # a mistake is told before any work
    if not flags.page:
        train(chosen, flags.out, flags.processes)
    print("page:", write_page(chosen, flags.out))
    return 0


def train(chosen: Sequence[Member], out: Path, processes: int = 1) -> None:
    """Trains the runs that are not done, each in a folder of `out`.

    Args:
        chosen: the runs.
        out: folder of the comparison.
        processes: number of runs at a time.
    """
    start, count = time.monotonic(), len(chosen)
    context = multiprocessing.get_context("spawn")
    started = (context.Value("i", 0), processes)
    with concurrent.futures.ProcessPoolExecutor(processes, context, _take_cores, started) as pool:
        waiting = {pool.submit(train_one, member, out): member for member in chosen}
        for number, future in enumerate(concurrent.futures.as_completed(waiting), 1):
            accuracy, seconds = future.result()
            passed = time.monotonic() - start
            left = passed / number * (count - number)
            print(
                f"{number}/{count}  {waiting[future].folder}: accuracy {accuracy:.3f}, "
                f"{seconds:.0f} s; {left / 60:.0f} min left",
                flush=True,
            )


def _take_cores(counter: Any, processes: int) -> None:
    """Keeps a process to its share of the cores; two that share all of them are slower by half."""
    if not hasattr(os, "sched_setaffinity"):
        return
    with counter.get_lock():
        number, counter.value = counter.value, counter.value + 1
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[number % processes :: processes] or cores)


def train_one(member: Member, out: Path) -> tuple[float, float]:
    """Trains one run, or reads what it gave; returns test accuracy and seconds of training."""
    from common.train import NoProgress, fit
    from experiments.tasks.language import make_task

    config = member.config()
    result = fit(make_task(config), config, out / member.folder, progress=NoProgress())
    return result["test"]["accuracy"], result["timing"]["elapsed_seconds"]


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(map(int, text.split(",")))
    except ValueError:
        raise UserError(f"--seeds is {text!r}; expected numbers such as 0,1,2") from None
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds is {text!r}; one stands there twice")
    return seeds


def _text(folder: Path | None) -> dict[str, Any]:
    if folder is None:
        return {"data.kind": "made_up"}
    return {"data.kind": "wikitext", "data.path": str(folder)}


def _quick(steps: int | None) -> dict[str, Any]:
    if steps is None:
        return {}
    if steps < 2:
        raise UserError(f"--steps is {steps}; expected 2 or more")
    every = {f"train.{name}_every": steps for name in ("log", "eval", "checkpoint")}
    return {"train.steps": steps, "optim.warmup_steps": 1, **every}


if __name__ == "__main__":
    sys.exit(main())
