"""Checkpoints of a training run, on top of Orbax (its v1 interface)."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orbax.checkpoint import v1 as ocp

from common.array_types import PyTree
from common.checkpoints.orbax_folders import first_line
from common.checkpoints.reader import CheckpointReader, print_warning
from common.checkpoints.record import make_record
from common.errors import UserError
from common.processes import is_first

DAMAGED = "damaged"
"""Name of the folder, beside the checkpoints, where damaged ones are put."""


class SaveError(Exception):
    """Reports that the checkpoint of `step` was not written; earlier ones are not affected."""

    def __init__(self, step: int, reason: BaseException):
        self.step = step
        super().__init__(f"checkpoint of step {step} was not written: {first_line(reason)}")


class CheckpointManager(CheckpointReader):
    """Writes whole training states in the background, and keeps the last and the best of them.

    Each checkpoint is a folder named by its step. It appears only when it is complete, so a
    process killed at any time leaves the earlier checkpoints as they were; what a killed save left
    behind is removed when the next one is written. A damaged checkpoint is moved to the folder
    'damaged' when it is met. As a context manager it waits for the save under way, except after a
    `KeyboardInterrupt`.

    Args:
        directory: Where the checkpoints lie; made if it is missing.
        keep_last: Number of most recent checkpoints to keep.
        keep_best: Number of checkpoints to keep that have the highest `metric`, the later of equals
            first. Checkpoints saved without metrics do not compete.
        metric: Name of the metric that ranks checkpoints.
        tell: Hears of each damaged checkpoint; by default prints to standard error.

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
        tell: Callable[[str], None] = print_warning,
    ):
        for name, value in (("keep_last", keep_last), ("keep_best", keep_best)):
            if value < 1:
                raise UserError(f"config.train.{name} is {value}, expected 1 or more")
        _make_folder(Path(directory))
        super().__init__(directory, metric, tell=tell)
        self._pending: int | None = None
        self._checkpointer: ocp.training.Checkpointer | None = None
        self.all_steps()  # Orbax cannot open a folder with certain damage, which is now put away.
        self._checkpointer = ocp.training.Checkpointer(
            self._directory,
            context=_context(),
            preservation_policy=_preservation(keep_last, keep_best, metric),
            cleanup_tmp_directories=True,
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

        Waits for the previous save first. The digests are taken before this returns: 10 ms for a
        state of 10 MB, half of which a copy to take them from later would cost.

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
        assert self._checkpointer is not None
        scores = None if metrics is None else dict(metrics)
        record = make_record(state, step=step, scores=scores, notes=dict(notes or {}))
        self._pending = step
        try:
            self._checkpointer.save_async(
                step,
                state,
                force=True,
                overwrite=overwrite,
                metrics=scores,
                custom_metadata=record,
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
        assert self._checkpointer is not None
        try:
            self._checkpointer.wait()
        except Exception as error:
            self._raise_failed(error)
        self._forget_pending()

    def close(self) -> None:
        """Waits for the save under way and ends the background threads.

        Raises:
            SaveError: The save under way failed.
        """
        try:
            self.wait()
        finally:
            assert self._checkpointer is not None
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

    def _listed(self) -> Iterable[int]:
        return (step for step in super()._listed() if step != self._pending)

    def _forget_pending(self) -> int:
        """Ends the save under way; what was known of its step is out of date."""
        step, self._pending = self._pending, None
        assert step is not None
        self._records.pop(step, None)
        self.damaged.pop(step, None)
        return step

    def _raise_failed(self, error: Exception) -> None:
        """Forgets the failed save, lists what is really on disk, and reports the failure.

        What it has written is removed at once: it may be what fills the disk.
        """
        step = self._forget_pending()
        assert self._checkpointer is not None
        for left in self._directory.glob(f"{step}.*tmp*") if is_first() else ():
            shutil.rmtree(left, ignore_errors=True)
        self._checkpointer.reload()
        raise SaveError(step, error) from error

    def _pass_over(self, step: int, reason: str) -> None:
        """Moves a damaged checkpoint away, so that neither Orbax nor a later run meets it."""
        self._records.pop(step, None)
        self.damaged[step] = reason
        if not is_first():
            return
        source = self._directory / str(step)
        target = _free_name(self._directory / DAMAGED / str(step))
        try:
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
        except OSError as error:
            raise UserError(
                f"checkpoint {source} is damaged: {reason}; it cannot be moved to {target}: "
                f"{error.strerror}"
            ) from None
        if self._checkpointer is not None:
            self._checkpointer.reload()
        self._tell(f"checkpoint {source} is damaged: {reason}; it was moved to {target}")

    def has_lost_all(self) -> bool:
        """Tells whether there were checkpoints, and all of them turned out to be damaged."""
        return not self.all_steps() and (self._directory / DAMAGED).is_dir()

    def _nothing_left(self) -> str:
        damaged = self._directory / DAMAGED
        names = sorted(path.name for path in damaged.iterdir()) if damaged.is_dir() else []
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in self.damaged.items())
        return (
            f"every checkpoint of the run is damaged and was moved to {damaged}: "
            f"{reasons or ', '.join(names)}; put back a good one, or choose another --workdir "
            "to start anew"
        )


def _free_name(path: Path) -> Path:
    """Returns `path`, with a number behind it where that is taken."""
    names = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return path if not path.exists() else next(name for name in names if not name.exists())


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
