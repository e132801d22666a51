"""What tables of finished runs have in common: which runs are read, where and when they ran."""

import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from common.errors import UserError
from common.train.workdir import config_changes


class TabledRun(Protocol):
    """A finished run as a table takes it.

    Attributes:
        config: content of config.json.
        environment: content of environment.json.
        key: tells the run from all others of its table.
    """

    @property
    def config(self) -> Mapping[str, Any]: ...  # noqa: D102

    @property
    def environment(self) -> Mapping[str, Any]: ...  # noqa: D102

    @property
    def key(self) -> Hashable: ...  # noqa: D102


Run = TypeVar("Run", bound=TabledRun)


def read_runs(
    folder: Path,
    read: Callable[[Path], Run],
    shared: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> dict[Any, Run]:
    """Reads all finished runs in the folders below one, by their keys.

    Args:
        folder: holds a folder for each run.
        read: reads the run of a folder.
        shared: takes from a config what all runs of the table must have alike.

    Raises:
        UserError: no folder, two runs of one key, or runs that are unlike in what they share.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    runs: dict[Any, Run] = {}
    places: dict[Any, Path] = {}
    for file in sorted(folder.glob("*/result.json")):
        run = read(file.parent)
        if run.key in runs:
            raise UserError(f"{places[run.key]} and {file.parent} are of one model and seed")
        runs[run.key], places[run.key] = run, file.parent
    first = next(iter(runs), None)
    for key, run in runs.items():
        changes = config_changes(shared(runs[first].config), shared(run.config))
        if changes:
            raise UserError(f"{places[key]} is unlike {places[first]}: {'; '.join(changes)}")
    return runs


def origin(environments: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns on what machines, with what version of JAX and on what days runs were made."""
    known = list(environments)
    machines = {
        f"{e['cpu_cores']} core{'' if e['cpu_cores'] == 1 else 's'} of {e['cpu']}" for e in known
    }
    versions = {f"jax {e['packages']['jax']}" for e in known}
    days = sorted(e["start_time"][:10] for e in known)
    span = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    return [*sorted(machines), *sorted(versions), span]


def deliver(out: Path | None, make: Callable[[], str]) -> int:
    """Prints a table or writes it to a file; returns the exit status, 2 if it cannot be made."""
    try:
        table = make()
    except UserError as error:
        print("error:", error, file=sys.stderr)
        return 2
    if out is None:
        print(table, end="")
    else:
        out.write_text(table, encoding="utf-8")
    return 0
