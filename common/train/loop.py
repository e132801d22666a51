"""The training loop: the only one, for every task."""

import contextlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from common.checkpoints import CheckpointManager, SaveError
from common.data.pipeline import Source, batch_indices, training_batches
from common.errors import UserError
from common.processes import first_alone, has_others, is_first, require_same
from common.train.averaging import scored_params
from common.train.clock import StepClock
from common.train.evaluation import EvaluationStopped, Scores, evaluate
from common.train.freed_memory import keep_freed_memory
from common.train.lock import RunLock
from common.train.metrics import format_scores, make_batch_sums
from common.train.parts import RunParts, check_notes, sample_batch
from common.train.preemption import Preempted, SharedStopRequest, StopRequest
from common.train.profiling import ProfiledStep
from common.train.progress import NoProgress, Progress, ProgressLine
from common.train.sharding import check_axes, make_run_mesh
from common.train.skipping import SkipWatch, nonfinite_names
from common.train.startup import Startup
from common.train.state import TrainState, parameter_count
from common.train.task import Params, Task
from common.train.workdir import Workdir, to_fields
from common.train.writers import MetricsWriter, Unwritten

INTERVALS = ("log_every", "eval_every", "checkpoint_every")
SHOWN_EXAMPLES = 8
"""Number of examples of a batch that a message names."""

COUNTS = ("steps", "batch_size", "eval_batch_size", *INTERVALS)


def fit(
    task: Task,
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    profile: bool = False,
    startup: Startup | None = None,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains `task` to the end, going on from where an earlier call with the same config stopped.

    The folder receives config.json, environment.json, metrics.jsonl, tensorboard/, checkpoints/
    and, at the end, result.json. All numbers except times depend on the config and the machine
    alone, bit for bit, wherever the run was stopped in between. A finished run is not touched.

    Args:
        task: What to learn.
        config: Has `seed`; `optim` (see `make_optimizer`); and `train` with steps, batch_size,
            eval_batch_size, log_every, eval_every, checkpoint_every, keep_last, keep_best and
            max_skipped_steps. `train` may also have accumulate (see `make_train_step`) and
            patience: the run ends early once so many validations in a row were no better than the
            best before them; 0, as where there is none, for never. `mesh` says how the run is
            spread over devices, see `common.mesh`; by default the examples over all of them.
        workdir: Folder of this run alone.
        progress: Shows how the run goes; by default a line on standard error.
        profile: Whether to profile the first steps of this call, see `ProfiledStep`.
        startup: Measures the way to the first step; by default from this call on.
        command: Command line that environment.json keeps; none by default.

    Returns:
        The content of result.json: 'step', 'best_step', 'parameters', the scores of the best
        checkpoint by name of the evaluation source, and 'timing'.

    Raises:
        UserError: The config or the folder does not fit, another process holds the folder, no
            checkpoint is good, a metric is not finite, or the disk is full.
        Preempted: SIGTERM or Ctrl-C came; the state is saved.
    """
    folder = Workdir(workdir)
    check_config(task, config)
    mesh = make_run_mesh(config)
    check_axes(mesh, getattr(task, "spreads", ()))
    keep_freed_memory()
    if progress is None:
        progress = ProgressLine() if is_first() else NoProgress()
    with contextlib.ExitStack() as stack:
        stack.callback(progress.close)
        if (result := folder.result()) is not None:
            folder.claim(config)
            if profile:
                raise UserError(f"{folder.path} holds a finished run, with no step to profile")
            progress.message(f"{folder.path} holds a finished run")
            return result
        with first_alone("folder"):
            if is_first() and not stack.enter_context(RunLock(folder.path)).held:
                progress.message(
                    f"{folder.path} cannot be locked; see that no other process uses it"
                )
            folder.claim(config)
        run = _Run(task, config, folder, progress, mesh, stack, profile, startup)
        return run.to_the_end(command)


def check_config(task: Task, config: ConfigDict) -> None:
    """Checks what can be checked before any work is done.

    Raises:
        UserError: A count is below 1, or a source that is needed is missing or empty.
    """
    for key in COUNTS:
        if config.train[key] < 1:
            raise UserError(f"config.train.{key} is {config.train[key]}, expected 1 or more")
    if (parts := config.train.get("accumulate", 1)) < 1 or config.train.batch_size % parts:
        raise UserError(
            f"config.train.accumulate is {parts}, expected a divisor of the batch size "
            f"{config.train.batch_size}"
        )
    if (most := config.train.max_skipped_steps) < 0:
        raise UserError(f"config.train.max_skipped_steps is {most}, expected 0 or more")
    if "validation" not in task.eval_sources or "train" in task.eval_sources:
        names = ", ".join(task.eval_sources) or "none"
        raise UserError(f"evaluation sources need 'validation' and no 'train', but are: {names}")
    for name, source in {"train": task.train_source, **task.eval_sources}.items():
        if len(source) == 0:
            raise UserError(f"the {name} data has no examples")


class _Run:
    """One session of a run: its parts, and what happens before, between and after the steps."""

    def __init__(
        self,
        task: Task,
        config: ConfigDict,
        folder: Workdir,
        progress: Progress,
        mesh: Mesh,
        stack: contextlib.ExitStack,
        profile: bool,
        startup: Startup | None,
    ):
        self.task, self.config, self.folder, self.progress = task, config, folder, progress
        self.startup = Startup() if startup is None else startup
        self.stop = stack.enter_context(SharedStopRequest() if has_others() else StopRequest())
        self.every = {key: config.train[key] for key in INTERVALS}
        self.steps = self.last = config.train.steps
        self.patience = config.train.get("patience", 0)
        self.parts = RunParts(task, config, mesh)
        self.sharding = self.parts.sharding
        stack.enter_context(self.sharding.in_force())
        self.train_step = self.parts.train_step
        if profile:
            self.train_step = stack.enter_context(
                ProfiledStep(
                    self.train_step, folder.profile, config.train.batch_size, progress.message
                )
            )
        self.score_sums = make_batch_sums(task.score)
        self.check_scores()
        keep = (config.train.keep_last, config.train.keep_best)
        self.manager = stack.enter_context(
            CheckpointManager(folder.checkpoints, *keep, task.metric, tell=progress.message)
        )
        self.start, self.first_state = self.restore()
        require_same(self.start, f"newest checkpoint in {folder.checkpoints}")
        self.writer = (
            MetricsWriter(folder, self.start) if is_first() else Unwritten(folder, self.start)
        )
        stack.callback(self.writer.close)
        self.skip_watch = SkipWatch()
        self.clock = StepClock(self.writer.elapsed_seconds(), config.train.batch_size)

    def check_scores(self) -> None:
        """Checks that the task's metric is among its scores."""
        size = self.sharding.rounded_up(self.config.train.eval_batch_size)
        sample = sample_batch(self.task.eval_sources["validation"], size)
        sample["mask"] = np.ones(size, bool)
        names = jax.eval_shape(self.score_sums, self.parts.abstract_state().params, sample)
        if self.task.metric not in names:
            raise ValueError(f"the task's metric {self.task.metric!r} is not one of {list(names)}")

    def to_the_end(self, command: Sequence[str]) -> dict[str, Any]:
        """Does what is left of the run."""
        state = self.first_state
        if is_first():
            self.folder.record_environment(self.start, self.manager.damaged, command)
        if self.start and (lost := self.lost_records()):
            self.progress.message(f"{self.folder.metrics} has lost {lost} records")
        if self.due(self.start, "eval_every") and not self.manager.metrics(self.start):
            # The session before was stopped while it scored this step.
            self.score_and_save(self.start, state, overwrite=True)
            self.leave_if_asked(self.start, state)
        if self.start < self.last and not self.has_stalled(self.start):
            self.train(state)
        elif self.start < self.last:
            self.last = self.start
        self.finish_saving()
        return self.score_best()

    def restore(self) -> tuple[int, TrainState]:
        """Restores the newest good checkpoint; draws the initial state if there never was one."""
        steps = self.manager.newest_first()
        if not steps and not self.manager.has_lost_all():
            return 0, self.parts.initial_state()
        start, state = self.manager.restore_first(steps, self.parts.abstract_state())
        check_notes(self.manager.notes(start), self.task, self.config, self.folder)
        return start, state

    def lost_records(self) -> int:
        """Counts the records that the checkpoint knows of and that are no longer there."""
        return max(0, self.manager.notes(self.start)["records"] - len(self.writer.records))

    def train(self, state: TrainState) -> None:
        """Makes the steps that are left."""
        train, source = self.config.train, self.task.train_source
        self.progress.begin(self.start, self.steps, train.batch_size)
        share = self.sharding.share
        batches = training_batches(source, train.batch_size, self.config.seed, self.start, share)
        with contextlib.closing(batches):
            for step in range(self.start + 1, self.steps + 1):
                state = self.train_step(state, self.sharding.place(next(batches)))
                if step == self.start + 1:
                    jax.block_until_ready(state)
                    self.clock.start(step)
                    self.progress.message(self.startup.first_step_done())
                self.after_step(step, state)
                if step < self.last and self.has_stalled(step):
                    self.last = step
                    self.progress.message(f"no better for {self.patience} validations; done")
                    break

    def after_step(self, step: int, state: TrainState) -> None:
        """Logs, scores and saves where it is due, and stops where it was asked for."""
        if self.skip_watch.count(step, state.skips) > self.config.train.max_skipped_steps:
            self.require_few_skips(state)
        values = self.log(step, state) if self.due(step, "log_every") else None
        if self.due(step, "eval_every"):
            values = (values or {}) | self.score_and_save(step, state)
        elif self.due(step, "checkpoint_every"):
            self.save(step, state)
        self.progress.update(step, values)
        self.leave_if_asked(step, state)

    def has_stalled(self, step: int) -> bool:
        """Tells whether the validations up to `step`, the last of them there, call for the end."""
        if not self.patience or not self.writer.find(step, "validation"):
            return False
        found = [r[self.task.metric] for r in self.writer.records if r["split"] == "validation"]
        return len(found) > self.patience and max(found[-self.patience :]) <= max(
            found[: -self.patience]
        )

    def due(self, step: int, key: str) -> bool:
        """Tells whether `step` is at the interval `key`; the last step is at every interval."""
        return step > 0 and (step % self.every[key] == 0 or step == self.steps)

    def log(self, step: int, state: TrainState) -> dict[str, float]:
        """Records the means over the steps since the last log point."""
        means = self.finite_means(step, state)
        self.folder.require()
        timing = self.clock.lap(step)
        if step - self.start <= self.every["log_every"]:  # the first record of this session
            timing |= self.startup.timing()
        skips = jax.device_get(state.skips)
        means["learning_rate"] = float(self.parts.learning_rate(step - 1 - int(skips.count)))
        if skips.recent:
            means["skipped_steps"] = int(skips.recent)
            self.progress.message(f"{skips.describe()}; {skips.count} skipped so far")
        self.writer.write({"step": step, "split": "train", **means, "timing": timing})
        return {name: means[name] for name in ("loss", self.task.metric) if name in means}

    def finite_means(self, step: int, state: TrainState) -> dict[str, float]:
        """Waits for the steps so far, and returns the means since the last log point.

        Skipped steps do not count; there are no means where all were skipped.
        """
        self.require_few_skips(state)
        count = (step - 1) % self.every["log_every"] + 1
        totals, recent = jax.device_get((state.totals, state.skips.recent))
        taken = count - int(recent)
        means = {name: float(total) / taken for name, total in totals.items() if taken}
        self.require_finite(means, f"between steps {step - count + 1} and {step}")
        return means

    def require_few_skips(self, state: TrainState) -> None:
        """Ends the run if more steps were not finite than may be skipped."""
        skips, train = jax.device_get(state.skips), self.config.train
        if skips.count <= train.max_skipped_steps:
            return
        step, source = int(skips.step), self.task.train_source
        indices = batch_indices(source, train.batch_size, self.config.seed, step - 1)
        shown = ", ".join(map(str, indices[:SHOWN_EXAMPLES]))
        more = ", ..." if len(indices) > SHOWN_EXAMPLES else ""
        raise UserError(
            f"{skips.describe()}; its batch is the training examples {shown}{more}; "
            f"{skips.count} steps were not finite, config.train.max_skipped_steps is "
            f"{train.max_skipped_steps}; {self.last_good()}; --mode=replay --step={step} shows it"
        )

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
                scores = self.score(source, scored_params(state))
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
        return evaluate(
            self.task,
            params,
            source,
            self.config.train.eval_batch_size,
            sums=self.score_sums,
            sharding=self.sharding,
            stop=self.stop.requested,
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
        self.folder.require()
        self.finite_means(step, state)
        if bad := nonfinite_names({"params": state.params, "opt_state": state.opt_state}):
            raise UserError(
                f"{', '.join(bad[:3])} not finite after step {step}; {self.last_good()}"
            )
        source = self.task.train_source
        notes = {
            "config": to_fields(self.config),
            "data_position": step,
            "records": len(self.writer.records),
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
        if not self.stop.requested():
            return
        assert self.stop.signum is not None
        self.attempt(self.manager.wait)
        if self.manager.latest_step() != step:
            self.save(step, state)
            self.attempt(self.manager.wait)
        self.require_saved(step)
        raise Preempted(step, self.stop.signum)

    def finish_saving(self) -> None:
        """Waits for the last checkpoint."""
        self.attempt(self.manager.wait)
        self.require_saved(self.last)

    def require_saved(self, step: int) -> None:
        """Ends the run if its newest state could not be saved."""
        if self.manager.latest_step() != step:
            raise UserError(
                f"the state of step {step} could not be saved in {self.folder.checkpoints}; "
                f"{self.last_good()}; run the same command to go on from there"
            )

    def score_best(self) -> dict[str, Any]:
        """Scores the best checkpoint on what was not used to choose it, and writes the result."""
        steps = self.manager.best_first()
        best, state = self.manager.restore_first(steps, self.parts.abstract_state())
        params = scored_params(state)
        scores = {"validation": dict(self.manager.metrics(best) or {})}
        for name, source in self.task.eval_sources.items():
            if name != "validation":
                scores[name] = self.score_at_end(name, source, params)
        result = {
            "step": self.last,
            "best_step": best,
            "parameters": parameter_count(params),
            **scores,
            "timing": self.clock.total() | self.startup.timing(),
        }
        if is_first():
            self.folder.write_result(result)
        return result

    def score_at_end(self, name: str, source: Source, params: Params) -> Scores:
        """Scores one source and tells the result."""
        try:
            scores = self.score(source, params)
        except EvaluationStopped:
            assert self.stop.signum is not None
            raise Preempted(self.last, self.stop.signum) from None
        self.require_finite(scores, f"on {name} at the end")
        self.record_scores(self.last, name, scores)
        self.progress.message(f"{name}: {format_scores(scores)}")
        return scores
