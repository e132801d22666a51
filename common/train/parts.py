"""What a task and a config say about the computation; what the loop and the replay share."""

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from common.checkpoints import CheckpointReader
from common.checkpoints.reader import print_warning
from common.data.pipeline import Source, gather
from common.errors import UserError
from common.mesh import one_device
from common.train.averaging import scored_params
from common.train.optim import make_optimizer
from common.train.sharding import Sharding
from common.train.state import TrainState, make_init, metric_names
from common.train.step import make_train_step
from common.train.task import Params, Task
from common.train.workdir import Workdir, config_changes, to_fields


class RunParts:
    """The compiled parts of a run.

    Args:
        task: What to learn.
        config: See `fit`.
        mesh: The devices; by default one.

    Attributes:
        sharding: Says where state and batches lie.
        init: Draws the initial state from a key.
        key: The key it is drawn from.
        train_step: Makes one step.
        learning_rate: Computes the learning rate from the number of steps taken.
    """

    def __init__(self, task: Task, config: ConfigDict, mesh: Mesh | None = None):
        self.sharding = Sharding(one_device() if mesh is None else mesh)
        scales = getattr(task, "learning_rate_scales", None)
        optimizer, schedule = make_optimizer(config.optim, config.train.steps, scales)
        source = task.train_source
        if len(source) == 0:  # as where a run is scored on images of another place
            source = next(iter(task.eval_sources.values()))
        sample = sample_batch(source, config.train.batch_size)
        init = make_init(task, optimizer, metric_names(task, sample))
        self.key = jax.random.key(config.seed)
        self.shapes = jax.eval_shape(init, self.key)
        where = self.sharding.of_state(self.shapes)
        self.init = jax.jit(init, out_shardings=where)
        self.learning_rate = jax.jit(schedule)
        self.train_step = make_train_step(
            task,
            optimizer,
            config.train.log_every,
            config.train.max_skipped_steps,
            config.train.get("accumulate", 1),
            where,
        )

    def abstract_state(self) -> TrainState:
        """Returns shape, dtype and place of each array of the state, without computing any."""
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            self.shapes,
            self.sharding.of_state(self.shapes),
        )

    def initial_state(self) -> TrainState:
        """Draws the initial state, every array where a restored one lies."""
        return self.init(self.key)


def sample_batch(source: Source, batch_size: int) -> dict[str, Any]:
    """Returns a batch of the shape that `source` gives."""
    return gather(source, np.zeros(batch_size, np.int64))


def check_notes(notes: dict[str, Any], task: Task, config: ConfigDict, folder: Workdir) -> None:
    """Checks that a checkpoint is of this run.

    Raises:
        UserError: It is of another config, or learned from other data.
    """
    if changes := config_changes(notes.get("config", {}), to_fields(config)):
        raise UserError(
            f"the checkpoint in {folder.checkpoints} is of another config: {'; '.join(changes)}"
        )
    source = task.train_source
    if (before := notes.get("train_examples")) != len(source):
        raise UserError(f"the run in {folder.path} had {before} examples, now {len(source)}")
    if (before := notes.get("data_fingerprint")) != source.fingerprint:
        raise UserError(
            f"the run in {folder.path} learned from other data (fingerprint {before}, "
            f"now {source.fingerprint}); give it back its data, or choose another --workdir"
        )


def restore_params(
    task: Task,
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    step: int | None = None,
    *,
    tell: Callable[[str], None] = print_warning,
) -> tuple[int, Params]:
    """Reads parameters from the checkpoints of a run, which may still be going on.

    Nothing is touched. Where no step is asked for, a damaged checkpoint is told of and passed over.

    Args:
        task: The task of the run.
        config: The config of the run.
        workdir: The folder of the run.
        step: Which checkpoint; by default the best, or the newest where none is scored yet.
        tell: Hears of damaged checkpoints; by default prints to standard error.

    Returns:
        The step of the checkpoint and its parameters: their average where the run keeps one.

    Raises:
        UserError: There is no such checkpoint, or it does not fit the task, or all are damaged.
    """
    reader = CheckpointReader(Workdir(workdir).checkpoints, task.metric, tell=tell)
    abstract = RunParts(task, config).abstract_state()
    if step is not None:
        return step, scored_params(reader.restore(step, abstract))
    found, state = reader.restore_first(reader.best_first(), abstract)
    return found, scored_params(state)
