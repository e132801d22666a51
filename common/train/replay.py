"""Making one step of a run again, to look at it."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from common.array_types import PyTree
from common.checkpoints import CheckpointReader
from common.checkpoints.reader import print_warning
from common.data.pipeline import Batch, batch_indices, gather
from common.errors import UserError
from common.train.parts import RunParts, check_notes
from common.train.sharding import make_run_mesh
from common.train.skipping import nonfinite_names
from common.train.state import TrainState
from common.train.task import Task, objective
from common.train.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Replay:
    """One step of a run.

    Attributes:
        step: Its number, counted from 1.
        start: Step of the checkpoint that it was made from, 0 for the initial state.
        indices: (b,) numbers of its examples in the training data.
        batch: The examples.
        metrics: The loss and the task's other metrics.
        gradient_norms: Norm of the gradient of each group of parameters, by name.
        nonfinite: Names of what is not finite: 'params/...' before the step, 'gradient/...' in it.
    """

    step: int
    start: int
    indices: np.ndarray
    batch: Batch
    metrics: dict[str, float]
    gradient_norms: dict[str, float]
    nonfinite: list[str]


def replay(
    task: Task,
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    step: int,
    *,
    tell: Callable[[str], None] = print_warning,
) -> Replay:
    """Makes step number `step` of a run again from the newest good checkpoint before it.

    Nothing in the folder is touched, and the run may still be going on. The steps in between are
    those of the run bit for bit; the loss of the step itself is computed beside its gradient in a
    program of its own, and may differ from the run's in the last digits.

    Args:
        task: The task of the run.
        config: The config of the run.
        workdir: The folder of the run.
        step: Which step, from 1 to the last.
        tell: Hears of damaged checkpoints; by default prints to standard error.

    Raises:
        UserError: There is no such step, or the checkpoint is not of this task and config.
    """
    if not 1 <= step <= config.train.steps:
        raise UserError(f"--step: there is no step {step}; expected 1 to {config.train.steps}")
    parts = RunParts(task, config, make_run_mesh(config))
    with parts.sharding.in_force():
        start, state = _state_before(task, config, Workdir(workdir), step, parts, tell)
        return _replayed(task, config, parts, start, state, step)


def _replayed(
    task: Task, config: ConfigDict, parts: RunParts, start: int, state: TrainState, step: int
) -> Replay:
    """Makes the steps from `start` on, and looks at the last of them."""
    source, place = task.train_source, parts.sharding.place

    def indices_of(number: int) -> np.ndarray:
        return batch_indices(source, config.train.batch_size, config.seed, number - 1)

    for number in range(start + 1, step):
        state = parts.train_step(state, place(gather(source, indices_of(number))))
    batch = gather(source, indices_of(step))
    metrics, gradients = _gradients(task, state, place(batch))
    return Replay(
        step,
        start,
        indices_of(step),
        batch,
        metrics,
        {name: float(optax.tree.norm(group)) for name, group in _groups(gradients).items()},
        [f"params/{name}" for name in nonfinite_names(state.params)]
        + [f"gradient/{name}" for name in nonfinite_names(gradients)],
    )


def _state_before(
    task: Task,
    config: ConfigDict,
    folder: Workdir,
    step: int,
    parts: RunParts,
    tell: Callable[[str], None],
) -> tuple[int, TrainState]:
    """Restores the newest good checkpoint before `step`, or draws the initial state."""
    if folder.checkpoints.is_dir():
        reader = CheckpointReader(folder.checkpoints, task.metric, tell=tell)
        if earlier := [found for found in reader.newest_first() if found < step]:
            start, state = reader.restore_first(earlier, parts.abstract_state())
            check_notes(reader.notes(start), task, config, folder)
            return start, state
    return 0, parts.initial_state()


def _gradients(task: Task, state: TrainState, batch: Batch) -> tuple[dict[str, float], PyTree]:
    rng = jax.random.fold_in(state.rng, state.step)
    loss_and_gradient = jax.jit(jax.value_and_grad(objective(task), has_aux=True))
    (loss, metrics), gradients = loss_and_gradient(state.params, batch, rng, state.step)
    return {name: float(value) for name, value in {"loss": loss, **metrics}.items()}, gradients


def _groups(tree: Any) -> dict[str, PyTree]:
    """Returns the trees of the first level, or the whole where there is none."""
    return dict(tree) if isinstance(tree, dict) else {"all": tree}
