"""Checkpoints of a training run, on top of Orbax (its v1 interface)."""

import contextlib
import gc
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from common.array_types import PyTree
from common.errors import UserError

MAX_NAMES = 20
"""Largest number of parameters that a message about a mismatch names."""


class SaveError(Exception):
    """Reports that the checkpoint of `step` was not written; earlier ones are not affected."""

    def __init__(self, step: int, reason: BaseException):
        self.step = step
        super().__init__(f"checkpoint of step {step} was not written: {_first_line(reason)}")


class CheckpointManager:
    """Writes whole training states in the background, and keeps the last and the best of them.

    Each checkpoint is a folder named by its step. It appears only when it is complete, so a
    process killed at any time leaves the earlier checkpoints as they were; what a killed save left
    behind is removed when the next one is written. As a context manager it waits for the save
    under way, except after a `KeyboardInterrupt`.

    Args:
        directory: Where the checkpoints lie; made if it is missing.
        keep_last: Number of most recent checkpoints to keep.
        keep_best: Number of checkpoints to keep that have the highest `metric`, the later of equals
            first. Checkpoints saved without metrics do not compete.
        metric: Name of the metric that ranks checkpoints.
        read_only: Whether to touch nothing, as is right beside a process that saves.

    Raises:
        UserError: `keep_last` or `keep_best` is below 1, or the directory cannot be made.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        keep_last: int,
        keep_best: int,
        metric: str,
        *,
        read_only: bool = False,
    ):
        for name, value in (("keep_last", keep_last), ("keep_best", keep_best)):
            if value < 1:
                raise UserError(f"config.train.{name} is {value}, expected 1 or more")
        _quieten()
        self._directory = Path(directory).absolute()
        self._metric = metric
        self._pending: int | None = None
        if not read_only:
            _make_folder(self._directory)
        elif not self._directory.is_dir():
            raise UserError(f"no folder {self._directory}")
        self._checkpointer = ocp.training.Checkpointer(
            self._directory,
            context=_context(),
            preservation_policy=_preservation(keep_last, keep_best, metric),
            cleanup_tmp_directories=not read_only,
        )

    def save(
        self,
        step: int,
        state: PyTree,
        metrics: Mapping[str, float] | None = None,
        *,
        notes: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Starts to write `state`; it may be donated or changed as soon as this returns.

        Waits for the previous save first.

        Args:
            step: Number of finished steps; names the checkpoint.
            state: Any tree of arrays and PRNG keys.
            metrics: Scores of this state; they let it compete for best.
            notes: Anything else to keep beside the state, as JSON.
            overwrite: Whether an existing checkpoint of this step is replaced.

        Raises:
            SaveError: The previous save failed (this one is then not begun), or this one could not
                begin. A failure in the background is raised by the next `wait`, `save` or `close`.
            FileExistsError: This step has a checkpoint and `overwrite` is False.
        """
        self.wait()
        self._pending = step
        try:
            self._checkpointer.save_async(
                step,
                state,
                force=True,
                overwrite=overwrite,
                metrics=None if metrics is None else dict(metrics),
                custom_metadata=dict(notes or {}),
            )
        except FileExistsError:
            self._pending = None
            raise
        except Exception as error:
            self._raise_failed(error)

    def wait(self) -> None:
        """Waits until the save under way is complete.

        Raises:
            SaveError: It failed. The error is raised once; the manager can go on saving.
        """
        if self._pending is None:
            return
        try:
            self._checkpointer.wait()
        except Exception as error:
            self._raise_failed(error)
        self._pending = None

    def all_steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints in order, without a save under way."""
        return [found.step for found in self._complete()]

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return max(self.all_steps(), default=None)

    def best_step(self) -> int | None:
        """Returns the step of the complete checkpoint with the highest metric, or None."""
        ranked = [
            (found.metrics[self._metric], found.step) for found in self._complete() if found.metrics
        ]
        return max(ranked)[1] if ranked else None

    def metrics(self, step: int) -> dict[str, float] | None:
        """Returns the metrics that the checkpoint of `step` was saved with."""
        found = {checkpoint.step: checkpoint.metrics for checkpoint in self._complete()}
        return found[step]

    def notes(self, step: int) -> dict[str, Any]:
        """Returns the notes that the checkpoint of `step` was saved with."""
        metadata = self._read(step, lambda: self._checkpointer.metadata(step))
        return dict(metadata.custom_metadata or {})

    def restore(self, step: int, abstract_state: PyTree) -> PyTree:
        """Reads the state of `step` onto the default device.

        Args:
            step: Which checkpoint.
            abstract_state: Tree of shapes and dtypes (`jax.eval_shape`) that the state must have.

        Raises:
            UserError: The saved tree differs, with the names that do; or the files are damaged.
        """
        if step not in self.all_steps():
            raise UserError(
                f"no checkpoint of step {step} in {self._directory}, only of {self.all_steps()}"
            )
        saved = self._read(step, lambda: self._saved_tree(step))
        if problem := describe_mismatch(saved, abstract_state):
            raise UserError(f"checkpoint {self._directory / str(step)} does not fit: {problem}")
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            abstract_state,
        )
        return self._read(step, lambda: self._checkpointer.load(step, target))

    def close(self) -> None:
        """Waits for the save under way and ends the background threads.

        Raises:
            SaveError: The save under way failed.
        """
        try:
            self.wait()
        finally:
            self._checkpointer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif not issubclass(kind, KeyboardInterrupt):
            try:
                self.close()
            except SaveError as failure:
                assert error is not None
                error.add_note(str(failure))

    def _complete(self) -> list[Any]:
        return [found for found in self._checkpointer.checkpoints if found.step != self._pending]

    def _saved_tree(self, step: int) -> PyTree:
        tree = self._checkpointer.metadata(step).metadata
        if tree is None:
            raise ValueError("the description of its arrays is damaged or missing")
        return tree

    def _read(self, step: int, action: Callable[[], Any]) -> Any:
        """Reads something of a checkpoint; damage gives one line instead of many pages."""
        with _silenced("asyncio"):
            try:
                return action()
            except Exception as error:
                reason = _first_line(error)
            gc.collect()  # Tasks that failed beside the first one report when they are collected.
        raise UserError(
            f"checkpoint {self._directory / str(step)} cannot be read ({reason}); "
            "remove that folder to go on from the one before it"
        )

    def _raise_failed(self, error: Exception) -> None:
        """Forgets the failed save, lists what is really on disk, and reports the failure."""
        step, self._pending = self._pending, None
        assert step is not None
        self._checkpointer.reload()
        raise SaveError(step, error) from error


def _make_folder(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {directory}: {error.strerror}") from None


def _context() -> ocp.Context:
    context = ocp.Context()
    # A folder that cannot be made is then an error at once, not a timeout of 20 minutes.
    context.asynchronous.create_directories_asynchronously = False
    return context


def _preservation(keep_last: int, keep_best: int, metric: str) -> Any:
    policies = ocp.training.preservation_policies
    best = policies.BestN(
        get_metric_fn=lambda metrics: metrics[metric],
        n=keep_best,
        keep_checkpoints_without_metrics=False,
    )
    return policies.AnyPreservationPolicy([policies.LatestN(keep_last), best])


def describe_mismatch(saved: PyTree, expected: PyTree) -> str:
    """Names the leaves in which two trees of shapes and dtypes differ, at most 20 of them.

    Only names below 'params' are given if any of those differ, since the optimizer's state repeats
    them.

    Returns:
        One line, or '' where the trees agree.
    """
    old, new = _leaves_by_name(saved), _leaves_by_name(expected)
    problems = [(name, f"{name} is missing in the checkpoint") for name in new.keys() - old.keys()]
    problems += [(name, f"{name} is unknown to the model") for name in old.keys() - new.keys()]
    for name in old.keys() & new.keys():
        if not _same_type(old[name], new[name]):
            problems.append(
                (name, f"{name} is {_type(old[name])} in the checkpoint, {_type(new[name])} here")
            )
    in_params = [problem for problem in problems if problem[0].startswith("params/")]
    lines = [line for _, line in sorted(in_params or problems)]
    if len(lines) > MAX_NAMES:
        lines[MAX_NAMES:] = [f"and {len(lines) - MAX_NAMES} more"]
    return "; ".join(lines)


def _leaves_by_name(tree: PyTree) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _same_type(saved: Any, expected: Any) -> bool:
    if jnp.issubdtype(expected.dtype, jax.dtypes.prng_key):
        return True  # a PRNG key is saved as the integers beneath it
    return tuple(saved.shape) == tuple(expected.shape) and saved.dtype == expected.dtype


def _type(leaf: Any) -> str:
    return f"{leaf.dtype}({', '.join(map(str, leaf.shape))})"


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def _quieten() -> None:
    """Keeps off the screen what Orbax logs: its progress, and traces of failures raised here."""
    logger = logging.getLogger("absl")
    if _is_not_from_orbax not in logger.filters:
        logger.addFilter(_is_not_from_orbax)


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname.replace("\\", "/")


@contextlib.contextmanager
def _silenced(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
