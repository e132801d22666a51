"""What the runs of a comparison reached: read back, averaged over seeds, compared."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.array_types import PyTree
from common.errors import UserError
from common.train import read_records, restore_params
from common.train.workdir import config_changes, read_json, to_fields, write_json
from experiments.comparisons.members import MakeTask, Member


class Result(NamedTuple):
    """One finished run.

    Attributes:
        member: which run.
        scores: of the test data.
        parameters: number of parameters.
        steps_per_second: median over the log points.
        seconds: wall time of training.
        environment: content of environment.json.
    """

    member: Member
    scores: dict[str, Any]
    parameters: int
    steps_per_second: float
    seconds: float
    environment: dict[str, Any]


def read_results(chosen: Sequence[Member], out: Path, kept: Path | None = None) -> list[Result]:
    """Reads the finished runs of a comparison.

    Args:
        chosen: the runs.
        out: folder that holds theirs.
        kept: folder of results without runs, see `keep_result`.

    Raises:
        UserError: there is none, or one that is kept is of another config.
    """
    found = [result for m in chosen if (result := _find(m, out, kept)) is not None]
    if not found:
        raise UserError(f"{out} holds no finished run of this comparison")
    return found


def _find(member: Member, out: Path, kept: Path | None) -> Result | None:
    if kept is not None and (result := read_kept(member, kept)) is not None:
        return result
    folder = out / member.folder
    return read_result(member, folder) if (folder / "result.json").exists() else None


def read_result(member: Member, folder: Path) -> Result:
    """Reads a finished run from its folder."""
    result = read_json(folder / "result.json")
    speeds = [
        record["timing"]["steps_per_second"]
        for record in read_records(folder / "metrics.jsonl")
        if record["split"] == "train" and "steps_per_second" in record.get("timing", {})
    ]
    return Result(
        member,
        result["test"],
        result["parameters"],
        statistics.median(speeds) if speeds else float("nan"),
        result["timing"]["elapsed_seconds"],
        read_json(folder / "environment.json"),
    )


def keep_result(result: Result, kept: Path) -> Path:
    """Writes what tables need of a run, with its config, to one small file; returns its path."""
    kept.mkdir(parents=True, exist_ok=True)
    file = kept / f"{result.member.folder}.json"
    fields = {name: value for name, value in result._asdict().items() if name != "member"}
    write_json(file, {"config": to_fields(result.member.config()), **fields})
    return file


def read_kept(member: Member, kept: Path) -> Result | None:
    """Reads what `keep_result` wrote of a run; None if it wrote nothing.

    Raises:
        UserError: it is of a run with another config.
    """
    file = kept / f"{member.folder}.json"
    if not file.exists():
        return None
    fields = read_json(file)
    if changes := config_changes(fields.pop("config"), to_fields(member.config())):
        raise UserError(
            f"{file} is of a run with another config: {'; '.join(changes)}; move it away to run "
            "this one again"
        )
    return Result(member, **fields)


def of(results: Sequence[Result], part: str, task: str, model: str | None = None) -> list[Result]:
    """Returns the results of one part and task, of one model if one is named."""
    return [
        r
        for r in results
        if (r.member.part, r.member.task) == (part, task) and model in (None, r.member.model)
    ]


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Writes mean and standard deviation over seeds: '0.994 ± 0.003'; '-' where there is none."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{digits}f}"


def mean_score(results: Sequence[Result], name: str) -> float:
    """Returns the mean of one score over runs, NaN where there is none."""
    values = [r.scores[name] for r in results]
    return statistics.mean(values) if values else float("nan")


class Trained(NamedTuple):
    """A trained model with its data.

    Attributes:
        result: what its run reached.
        task: model and data.
        params: parameters of the best checkpoint.
    """

    result: Result
    task: Any
    params: PyTree


class Comparison:
    """The finished runs of a comparison, and their models as they are asked for.

    Args:
        results: the runs.
        out: folder that holds theirs.
        make_task: builds the task of a run.

    Attributes:
        results: the runs.
    """

    def __init__(self, results: Sequence[Result], out: Path, make_task: MakeTask):
        self.results, self._out, self._make_task = results, out, make_task
        self._trained: dict[str, Trained] = {}

    def trained(self, part: str, task: str, model: str) -> Trained | None:
        """Returns the first seed's model of a part of the comparison, if its run is there."""
        found = [
            r
            for r in of(self.results, part, task, model)
            if (self._out / r.member.folder / "result.json").exists()
        ]
        if not found:
            return None
        first = min(found, key=lambda r: r.member.seed)
        folder = first.member.folder
        if folder not in self._trained:
            config = first.member.config()
            made = self._make_task(config)
            _, params = restore_params(made, config, self._out / folder)
            self._trained[folder] = Trained(first, made, params)
        return self._trained[folder]
