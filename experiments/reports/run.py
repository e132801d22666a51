"""One Pathfinder run as its reports see it: what its folder holds and what its model answers."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from common.array_types import PyTree
from common.train import read_records
from experiments.reports.measurements import (
    Anatomy,
    ImageSet,
    ImageTask,
    Predictions,
    find_anatomy,
    predict,
)

CLASSES = ("not connected", "connected")
CHANCE = 0.5


@dataclasses.dataclass(frozen=True)
class Run:
    """One run, read back from its folder, with its model's answers on the held-out images.

    Attributes:
        config: settings of the run.
        workdir: its folder.
        task: model and data.
        params: parameters that the report is about.
        records: lines of metrics.jsonl.
        result: content of result.json; empty while the run has not ended.
        environment: content of environment.json; empty if there is none.
        split: name of the held-out images, 'test' where the task has it.
        predictions: the model's answers on them.
        anatomy: what the model lets one see.
    """

    config: ConfigDict
    workdir: Path
    task: ImageTask
    params: PyTree
    records: list[dict[str, Any]]
    result: Mapping[str, Any]
    environment: Mapping[str, Any]
    split: str
    predictions: Predictions
    anatomy: Anatomy

    @property
    def data(self) -> ImageSet:
        """Returns the held-out images."""
        return self.task.eval_sources[self.split]

    @property
    def last_step(self) -> int:
        """Returns the last step that the record knows of."""
        return max((record["step"] for record in self.records), default=0)


def read_run(config: ConfigDict, workdir: Path, task: ImageTask, params: PyTree) -> Run:
    """Reads the folder of a run and runs its model on all held-out images."""
    split = "test" if "test" in task.eval_sources else "validation"
    return Run(
        config,
        workdir,
        task,
        params,
        read_records(workdir / "metrics.jsonl"),
        _read_json(workdir / "result.json"),
        _read_json(workdir / "environment.json"),
        split,
        predict(task, params, task.eval_sources[split], config.train.eval_batch_size),
        find_anatomy(task, params),
    )


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
