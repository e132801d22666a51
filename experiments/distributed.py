"""The flags of a run of several processes."""

import argparse
import contextlib
import re
from collections.abc import Mapping
from typing import Any

from common.errors import UserError

FLAGS = ("--distributed", "--coordinator", "--processes", "--process")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="this process is one of several that train together, each with its own devices; "
        "SLURM, Kubernetes, Cloud TPU and MPI say which, or the next three flags do",
    )
    parser.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 listens, the same for all"
    )
    parser.add_argument("--processes", metavar="N", help="number of processes")
    parser.add_argument("--process", metavar="I", help="number of this one, from 0")


def read_flags(flags: argparse.Namespace, trains: bool) -> dict[str, Any] | None:
    """Returns the arguments of `common.processes.joined`, or None for a single process.

    Args:
        flags: what the command line says.
        trains: whether the mode trains; the others are for a single process.

    Raises:
        UserError: a flag has no use or no sense.
    """
    given = {name: getattr(flags, name) for name in ("coordinator", "processes", "process")}
    if not flags.distributed:
        if named := [name for name, value in given.items() if value is not None]:
            raise UserError(f"--{named[0]}: only with --distributed")
        return None
    if not trains:
        raise UserError(f"--distributed: --mode={flags.mode} is for a single process")
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise UserError(
            f"--{missing[0]}: missing; give all of --coordinator, --processes, --process"
        )
    if missing:
        return given
    if not re.fullmatch(r".+:\d+", given["coordinator"]):
        raise UserError(f"--coordinator: expected HOST:PORT, got {given['coordinator']!r}")
    for name in ("processes", "process"):
        if not given[name].isdecimal():
            raise UserError(f"--{name}: expected a number, got {given[name]!r}")
        given[name] = int(given[name])
    if given["process"] >= given["processes"]:
        raise UserError(
            f"--process: expected 0 to {given['processes'] - 1}, got {given['process']}"
        )
    return given


def place_of(arguments: Mapping[str, Any] | None) -> contextlib.AbstractContextManager:
    """Returns the context in which this process is one of several, or alone."""
    if arguments is None:
        return contextlib.nullcontext()
    from common.processes import joined  # brings in JAX

    return joined(**arguments)
