"""The run that faults are put on: Pathfinder, small, with the examples of each step in the record.

    python -m experiments.faults.subject --workdir=DIR

is a command line as that of experiments.pathfinder, without its report.
"""

import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from common.array_types import Array, PRNGKey, PyTree
from common.data.pipeline import Batch, Source, gather
from experiments import cli
from experiments.pathfinder import DEFAULT_CONFIG

POISONED = "FAULTS_POISONED_EXAMPLE"
"""Environment variable with the number of an example whose loss is NaN."""

SIZES = {
    "data.train_count": 400,
    "data.validation_count": 40,
    "data.test_count": 40,
    "train.steps": 300,
    "train.batch_size": 8,
    "train.eval_batch_size": 40,
    "train.log_every": 1,
    "train.eval_every": 50,
    "train.checkpoint_every": 5,
}


class NumberedSource:
    """A source whose examples know their numbers, as 'number'."""

    def __init__(self, source: Source):
        self._source = source

    @property
    def fingerprint(self) -> str:
        """That of the examples."""
        return self._source.fingerprint

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns one example."""
        return {**self._source[index], "number": np.int32(index)}  # pyright: ignore

    def __getitems__(self, indices: np.ndarray) -> Batch:
        """Returns the examples at `indices` (b,) as one batch."""
        return gather(self._source, indices) | {"number": indices.astype(np.int32)}


@dataclasses.dataclass
class NumberedTask:
    """A task that records which examples a step learned from.

    Attributes:
        task: The task.
        poisoned: Number of an example whose loss is NaN; -1 for none.
    """

    task: Any
    poisoned: int = -1

    def __post_init__(self):
        self.train_source = NumberedSource(self.task.train_source)
        self.eval_sources: Mapping[str, Source] = self.task.eval_sources
        self.metric: str = self.task.metric
        self.init, self.score = self.task.init, self.task.score

    def loss(
        self, params: PyTree, batch: Mapping[str, Any], rng: PRNGKey
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the task's loss and metrics, and 'examples', a number that tells which and where.

        It is exact in float32.
        """
        loss, metrics = self.task.loss(params, batch, rng)
        number = jnp.asarray(batch["number"])
        places = 1 + jnp.arange(number.shape[0], dtype=number.dtype)
        examples = jnp.sum((number + 1) * places * 31 % 4093).astype(jnp.float32)
        poison = jnp.where(jnp.any(number == self.poisoned), jnp.nan, 0.0)
        return loss + poison, {**metrics, "examples": examples}


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains or resumes the run."""
    from common.train import fit, require_free
    from experiments.tasks.pathfinder import make_task

    require_free(workdir)
    fit(NumberedTask(make_task(config), int(os.environ.get(POISONED, "-1"))), config, workdir)


def load(overrides: Mapping[str, Any]) -> ConfigDict:
    """Returns the config of the run."""
    return cli.load_config(f"{DEFAULT_CONFIG}:smoke", {**SIZES, **overrides})


def main() -> int:
    """Runs the command line and returns its exit status."""
    return cli.run(
        {"train": train},
        module="experiments.faults.subject",
        description="Trains a small model for faults to be put on.",
        default_config=DEFAULT_CONFIG,
    )


if __name__ == "__main__":
    sys.exit(main())
