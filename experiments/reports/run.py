"""One Pathfinder run as its reports see it: what its folder holds and what its model answers."""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from common.array_types import PyTree
from experiments.reports.measurements import (
    Anatomy,
    ImageSet,
    ImageTask,
    Predictions,
    find_anatomy,
    predict,
)
from experiments.reports.record import RunRecord, read_record

CLASSES = ("not connected", "connected")
CHANCE = 0.5


@dataclasses.dataclass(frozen=True)
class Run(RunRecord):
    """One run, read back from its folder, with its model's answers on the held-out images.

    Attributes:
        task: model and data.
        split: name of the held-out images, 'test' where the task has it.
        predictions: the model's answers on them.
        anatomy: what the model lets one see.
    """

    task: ImageTask
    split: str
    predictions: Predictions
    anatomy: Anatomy

    @property
    def data(self) -> ImageSet:
        """Returns the held-out images."""
        return self.task.eval_sources[self.split]


def read_run(config: ConfigDict, workdir: Path, task: ImageTask, params: PyTree) -> Run:
    """Reads the folder of a run and runs its model on all held-out images."""
    split = "test" if "test" in task.eval_sources else "validation"
    predictions = predict(task, params, task.eval_sources[split], config.train.eval_batch_size)
    record = vars(read_record(config, workdir, params))
    return Run(
        **record,
        task=task,
        split=split,
        predictions=predictions,
        anatomy=find_anatomy(task, params),
    )
