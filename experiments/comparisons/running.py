"""The command of a comparison: flags, and runs that are trained several at a time."""

import argparse
import concurrent.futures
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from experiments.comparisons.members import MakeTask, Member


def make_parser(description: str, out: str) -> argparse.ArgumentParser:
    """Returns the parser of the flags that all comparisons have.

    Args:
        description: first line of the help.
        out: folder of the runs by default.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of the runs")
    parser.add_argument("--seeds", default="0,1,2", help="numbers with commas between them")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time (%(default)s)")
    parser.add_argument("--steps", type=int, help="steps of every run, to try things out")
    parser.add_argument(
        "--results", type=Path, help="folder that keeps a small file of each run's result"
    )
    parser.add_argument("--page", action="store_true", help="write the page of what is there")
    return parser


def compare(
    flags: argparse.Namespace,
    choose: Callable[[argparse.Namespace], Sequence[Member]],
    make_task: MakeTask,
    write_page: Callable[[Sequence[Member], Path, Path | None], Path],
) -> int:
    """Trains the runs of a comparison and writes its page; returns the exit status.

    Args:
        flags: as `make_parser` reads them.
        choose: gives the runs.
        make_task: builds the task of a run.
        write_page: writes the page of the runs that are done into the folder of the comparison.
    """
    try:
        if flags.processes < 1:
            raise UserError(f"--processes is {flags.processes}; expected 1 or more")
        chosen = choose(flags)
        chosen[0].config()  # a mistake is told before any work
        if not flags.page:
            train(chosen, flags.out, make_task, flags.processes, flags.results)
        print("page:", write_page(chosen, flags.out, flags.results))
    except UserError as error:
        print("error:", error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


def train(
    chosen: Sequence[Member],
    out: Path,
    make_task: MakeTask,
    processes: int = 1,
    kept: Path | None = None,
) -> None:
    """Trains the runs that are not done, each in a folder of `out`.

    Args:
        chosen: the runs.
        out: folder of the comparison.
        make_task: builds the task of a run.
        processes: number of runs at a time.
        kept: folder that keeps the results; what is there is done.
    """
    start, count = time.monotonic(), len(chosen)
    context = multiprocessing.get_context("spawn")
    started = (context.Value("i", 0), processes)
    with concurrent.futures.ProcessPoolExecutor(processes, context, _take_cores, started) as pool:
        waiting = {
            pool.submit(train_one, member, out, make_task, kept): member for member in chosen
        }
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


def train_one(
    member: Member, out: Path, make_task: MakeTask, kept: Path | None = None
) -> tuple[float, float]:
    """Trains one run, or reads what it gave; returns test accuracy and seconds of training."""
    from common.train import NoProgress, fit, use_cache
    from experiments.comparisons.results import keep_result, read_kept, read_result

    use_cache()
    result = None if kept is None else read_kept(member, kept)
    if result is None:
        config, folder = member.config(), out / member.folder
        fit(make_task(config), config, folder, progress=NoProgress())
        result = read_result(member, folder)
        if kept is not None:
            keep_result(result, kept)
    return result.scores["accuracy"], result.seconds


def read_seeds(text: str) -> tuple[int, ...]:
    """Reads numbers with commas between them.

    Raises:
        UserError: something else, or one twice.
    """
    try:
        seeds = tuple(map(int, text.split(",")))
    except ValueError:
        raise UserError(f"--seeds is {text!r}; expected numbers such as 0,1,2") from None
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds is {text!r}; one stands there twice")
    return seeds


def shorter(steps: int | None) -> dict[str, Any]:
    """Returns the fields that make every run as short as asked for; none where it is None."""
    if steps is None:
        return {}
    if steps < 2:
        raise UserError(f"--steps is {steps}; expected 2 or more")
    every = {f"train.{name}_every": steps for name in ("log", "eval", "checkpoint")}
    return {"train.steps": steps, "optim.warmup_steps": 1, **every}
