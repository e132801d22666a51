"""The training loop: the only one, for every task."""

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from common.checkpoints import CheckpointManager, SaveError
from common.data.pipeline import Source, gather, training_batches
from common.errors import UserError
from common.train.clock import StepClock
from common.train.evaluation import EvaluationStopped, Scores, evaluate
from common.train.metrics import format_scores, make_batch_sums
from common.train.optim import make_optimizer
from common.train.preemption import Preempted, StopRequest
from common.train.progress import Progress, ProgressLine
from common.train.state import TrainState, make_init, metric_names, parameter_count
from common.train.step import make_train_step
from common.train.task import Params, Task
from common.train.workdir import Workdir
from common.train.writers import MetricsWriter

INTERVALS = ("log_every", "eval_every", "checkpoint_every")
COUNTS = ("steps", "batch_size", "eval_batch_size", *INTERVALS)


def fit(
    task: Task,
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Trains `task` to the end, going on from where an earlier call with the same config stopped.

    The folder receives config.json, environment.json, metrics.jsonl, tensorboard/, checkpoints/
    and, at the end, result.json. All numbers except times depend on the config and the machine
    alone, bit for bit, wherever the run was stopped in between. A finished run is not touched.

    Args:
        task: What to learn.
        config: Has `seed`; `optim` (see `make_optimizer`); and `train` with steps, batch_size,
            eval_batch_size, log_every, eval_every, checkpoint_every, keep_last and keep_best.
        workdir: Folder of this run alone.
        progress: Shows how the run goes; by default a line on standard error.

    Returns:
        The content of result.json: 'step', 'best_step', 'parameters', the scores of the best
        checkpoint by name of the evaluation source, and 'timing'.

    Raises:
        UserError: The config or the folder does not fit, or a metric is not finite.
        Preempted: SIGTERM or Ctrl-C came; the state is saved.
    """
    folder = Workdir(workdir)
    check_config(task, config)
    folder.claim(config)
    progress = ProgressLine() if progress is None else progress
    with contextlib.ExitStack() as stack:
        stack.callback(progress.close)
        if (result := folder.result()) is not None:
            progress.message(f"{folder.path} holds a finished run")
            return result
        return _Run(task, config, folder, progress, stack).to_the_end()


def check_config(task: Task, config: ConfigDict) -> None:
    """Checks what can be checked before any work is done.

    Raises:
        UserError: A count is below 1, or a source that is needed is missing or empty.
    """
    for key in COUNTS:
        if config.train[key] < 1:
            raise UserError(f"config.train.{key} is {config.train[key]}, expected 1 or more")
    if "validation" not in task.eval_sources or "train" in task.eval_sources:
        names = ", ".join(task.eval_sources) or "none"
        raise UserError(f"evaluation sources need 'validation' and no 'train', but are: {names}")
    for name, source in {"train": task.train_source, **task.eval_sources}.items():
        if len(source) == 0:
            raise UserError(f"the {name} data has no examples")


def restore_params(
    task: Task, config: ConfigDict, workdir: str | os.PathLike[str], step: int | None = None
) -> tuple[int, Params]:
    """Reads parameters from the checkpoints of a run, which may still be going on.

    Args:
        task: The task of the run.
        config: The config of the run.
        workdir: The folder of the run.
        step: Which checkpoint; by default the best, or the newest where none is scored yet.

    Returns:
        The step of the checkpoint and its parameters.

    Raises:
        UserError: There is no such checkpoint, or it does not fit the task.
    """
    folder = Workdir(workdir).checkpoints
    with _open_checkpoints(task, config, folder, read_only=True) as manager:
        steps = manager.all_steps()
        if not steps:
            raise UserError(f"no checkpoint in {folder}; train first")
        best = manager.best_step()
        chosen = step if step is not None else steps[-1] if best is None else best
        state = manager.restore(chosen, _Parts(task, config).abstract_state())
        return chosen, state.params


class _Parts:
    """What a task and a config say about the computation."""

    def __init__(self, task: Task, config: ConfigDict):
        self.optimizer, schedule = make_optimizer(config.optim, config.train.steps)
        self.learning_rate = jax.jit(schedule)
        source = task.train_source
        if len(source) == 0:  # as where a run is scored on images of another place
            source = next(iter(task.eval_sources.values()))
        sample = _sample(source, config.train.batch_size)
        self.init = make_init(task, self.optimizer, metric_names(task, sample))
        self.key = jax.random.key(config.seed)

    def abstract_state(self) -> TrainState:
        """Returns the shapes and dtypes of the state, without computing anything."""
        return jax.eval_shape(self.init, self.key)


class _Run:
    """One session of a run: its parts, and what happens before, between and after the steps."""

    def __init__(
        self,
        task: Task,
        config: ConfigDict,
        folder: Workdir,
        progress: Progress,
        stack: contextlib.ExitStack,
    ):
        self.task, self.config, self.folder, self.progress = task, config, folder, progress
        self.stop = stack.enter_context(StopRequest())
        self.every = {key: config.train[key] for key in INTERVALS}
        self.steps = config.train.steps
        self.parts = _Parts(task, config)
        self.train_step = make_train_step(task, self.parts.optimizer, config.train.log_every)
        self.score_sums = make_batch_sums(task.score)
        self.check_scores()
        self.manager = stack.enter_context(_open_checkpoints(task, config, folder.checkpoints))
        self.start = self.manager.latest_step() or 0
        self.writer = MetricsWriter(folder, self.start)
        stack.callback(self.writer.close)
        self.clock = StepClock(self.writer.elapsed_seconds(), config.train.batch_size)

    def check_scores(self) -> None:
        """Checks that the task's metric is among its scores."""
        sample = _sample(self.task.eval_sources["validation"], self.config.train.eval_batch_size)
        sample["mask"] = np.ones(self.config.train.eval_batch_size, bool)
        names = jax.eval_shape(self.score_sums, self.parts.abstract_state().params, sample)
        if self.task.metric not in names:
            raise ValueError(f"the task's metric {self.task.metric!r} is not one of {list(names)}")

    def to_the_end(self) -> dict[str, Any]:
        """Does what is left of the run."""
        state = self.first_state()
        self.folder.record_environment(self.start)
        if self.due(self.start, "eval_every") and not self.manager.metrics(self.start):
            # The session before was stopped while it scored this step.
            self.score_and_save(self.start, state, overwrite=True)
            self.leave_if_asked(self.start, state)
        if self.start < self.steps:
            self.train(state)
        self.finish_saving()
        return self.score_best()

    def first_state(self) -> TrainState:
        """Draws the initial state, or restores the newest checkpoint."""
        if not self.start:
            # Committed to the device as a restored state is, so that both run the same executable.
            return jax.device_put(self.parts.init(self.parts.key), jax.devices()[0])
        source, notes = self.task.train_source, self.manager.notes(self.start)
        if (before := notes.get("train_examples")) != len(source):
            raise UserError(
                f"the run in {self.folder.path} had {before} examples, now {len(source)}"
            )
        if (before := notes.get("data_fingerprint")) != source.fingerprint:
            raise UserError(
                f"the run in {self.folder.path} learned from other data (fingerprint {before}, "
                f"now {source.fingerprint}); give it back its data, or choose another --workdir"
            )
        return self.manager.restore(self.start, self.parts.abstract_state())

    def train(self, state: TrainState) -> None:
        """Makes the steps that are left."""
        train, source = self.config.train, self.task.train_source
        self.progress.begin(self.start, self.steps, train.batch_size)
        batches = training_batches(source, train.batch_size, self.config.seed, self.start)
        with contextlib.closing(batches):
            for step in range(self.start + 1, self.steps + 1):
                state = self.train_step(state, next(batches))
                if step == self.start + 1:
                    jax.block_until_ready(state)
                    self.clock.start(step)
                self.after_step(step, state)

    def after_step(self, step: int, state: TrainState) -> None:
        """Logs, scores and saves where it is due, and stops where it was asked for."""
        values = self.log(step, state) if self.due(step, "log_every") else None
        if self.due(step, "eval_every"):
            values = (values or {}) | self.score_and_save(step, state)
        elif self.due(step, "checkpoint_every"):
            self.save(step, state)
        self.progress.update(step, values)
        self.leave_if_asked(step, state)

    def due(self, step: int, key: str) -> bool:
        """Tells whether `step` is at the interval `key`; the last step is at every interval."""
        return step > 0 and (step % self.every[key] == 0 or step == self.steps)

    def log(self, step: int, state: TrainState) -> dict[str, float]:
        """Records the means over the steps since the last log point."""
        means = self.finite_means(step, state)
        timing = self.clock.lap(step)
        means["learning_rate"] = float(self.parts.learning_rate(step - 1))
        self.writer.write({"step": step, "split": "train", **means, "timing": timing})
        return {name: means[name] for name in ("loss", self.task.metric) if name in means}

    def finite_means(self, step: int, state: TrainState) -> dict[str, float]:
        """Waits for the steps so far, and returns the means since the last log point."""
        count = (step - 1) % self.every["log_every"] + 1
        totals = jax.device_get(state.totals)
        means = {name: float(total) / count for name, total in totals.items()}
        self.require_finite(means, f"between steps {step - count + 1} and {step}")
        return means

    def require_finite(self, values: Mapping[str, float], when: str) -> None:
        """Ends the run if it has diverged."""
        if bad := [name for name, value in values.items() if not math.isfinite(value)]:
            raise UserError(f"{', '.join(bad)} not finite {when}; {self.last_good()}")

    def last_good(self) -> str:
        """Names the newest complete checkpoint."""
        with contextlib.suppress(SaveError):
            self.manager.wait()
        step = self.manager.latest_step()
        return f"the last good checkpoint is {'none' if step is None else f'of step {step}'}"

    def score_and_save(
        self, step: int, state: TrainState, *, overwrite: bool = False
    ) -> dict[str, float]:
        """Records the validation scores and saves the state with them."""
        self.finite_means(step, state)
        source = self.task.eval_sources["validation"]
        with self.clock.paused():
            try:
                scores = self.score(source, state.params)
            except EvaluationStopped:
                self.leave_if_asked(step, state)
                raise
        self.require_finite(scores, f"on validation at step {step}")
        if not self.writer.find(step, "validation"):
            self.record_scores(step, "validation", scores)
        self.save(step, state, scores, overwrite=overwrite)
        return {f"validation {self.task.metric}": scores[self.task.metric]}

    def score(self, source: Source, params: Params) -> Scores:
        """Scores `source`, unless the run is asked to stop before it is through."""
        size = self.config.train.eval_batch_size
        return evaluate(
            self.task, params, source, size, sums=self.score_sums, stop=self.stop.requested
        )

    def record_scores(self, step: int, split: str, scores: Scores) -> None:
        """Writes scores to the record."""
        self.writer.write({"step": step, "split": split, **scores, "timing": self.clock.total()})

    def save(
        self,
        step: int,
        state: TrainState,
        scores: Scores | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        """Starts to save the state; says so if this or the save before it fails, and goes on."""
        self.finite_means(step, state)
        source = self.task.train_source
        notes = {
            "data_position": step,
            "train_examples": len(source),
            "data_fingerprint": source.fingerprint,
        }
        with self.clock.paused():
            self.attempt(self.manager.wait)
            self.attempt(
                lambda: self.manager.save(step, state, scores, notes=notes, overwrite=overwrite)
            )

    def attempt(self, action: Callable[[], None]) -> None:
        """Does what a full disk may prevent."""
        try:
            action()
        except SaveError as error:
            self.progress.message(f"{error}; training goes on; {self.last_good()}")

    def leave_if_asked(self, step: int, state: TrainState) -> None:
        """Ends the session with the state saved, if a signal asked for it."""
        if self.stop.signum is None:
            return
        self.attempt(self.manager.wait)
        if self.manager.latest_step() != step:
            self.save(step, state)
            self.attempt(self.manager.wait)
        self.require_saved(step)
        raise Preempted(step, self.stop.signum)

    def finish_saving(self) -> None:
        """Waits for the last checkpoint."""
        self.attempt(self.manager.wait)
        self.require_saved(self.steps)

    def require_saved(self, step: int) -> None:
        """Ends the run if its newest state could not be saved."""
        if self.manager.latest_step() != step:
            raise UserError(
                f"the state of step {step} could not be saved in {self.folder.checkpoints}; "
                f"{self.last_good()}; run the same command to go on from there"
            )

    def score_best(self) -> dict[str, Any]:
        """Scores the best checkpoint on what was not used to choose it, and writes the result."""
        best = self.manager.best_step()
        assert best is not None, "the last step is always scored"
        params = self.manager.restore(best, self.parts.abstract_state()).params
        scores = {"validation": dict(self.manager.metrics(best) or {})}
        for name, source in self.task.eval_sources.items():
            if name != "validation":
                scores[name] = self.score_at_end(name, source, params)
        result = {
            "step": self.steps,
            "best_step": best,
            "parameters": parameter_count(params),
            **scores,
            "timing": self.clock.total(),
        }
        self.folder.write_result(result)
        return result

    def score_at_end(self, name: str, source: Source, params: Params) -> Scores:
        """Scores one source and tells the result."""
        try:
            scores = self.score(source, params)
        except EvaluationStopped:
            assert self.stop.signum is not None
            raise Preempted(self.steps, self.stop.signum) from None
        self.require_finite(scores, f"on {name} at the end")
        self.record_scores(self.steps, name, scores)
        self.progress.message(f"{name}: {format_scores(scores)}")
        return scores


def _open_checkpoints(
    task: Task, config: ConfigDict, folder: os.PathLike[str], *, read_only: bool = False
) -> CheckpointManager:
    train = config.train
    return CheckpointManager(
        folder, train.keep_last, train.keep_best, task.metric, read_only=read_only
    )


def _sample(source: Source, batch_size: int) -> dict[str, Any]:
    """Returns a batch of the shape that `source` gives."""
    return gather(source, np.zeros(batch_size, np.int64))
