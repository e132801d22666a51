"""Reading the checkpoints of a run, past those that are damaged."""

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax

from common.array_types import PyTree
from common.checkpoints.matching import describe_differences, leaf_types
from common.checkpoints.orbax_folders import load_arrays
from common.checkpoints.quiet import quieten
from common.checkpoints.record import DamagedCheckpoint, Record, read_record
from common.errors import UserError


def print_warning(text: str) -> None:
    """Prints a line on standard error."""
    print("warning:", text, file=sys.stderr)


class CheckpointReader:
    """Reads checkpoints and touches nothing, as is right beside a process that saves.

    A checkpoint that is damaged is told of once, and counts no more.

    Args:
        directory: Where the checkpoints lie, each in a folder named by its step.
        metric: Name of the score that ranks checkpoints; higher is better.
        tell: Hears of each damaged checkpoint; by default prints to standard error.

    Attributes:
        damaged: What is wrong with each damaged checkpoint that was met, by step.

    Raises:
        UserError: There is no such directory.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        metric: str,
        *,
        tell: Callable[[str], None] = print_warning,
    ):
        quieten()
        self._directory = Path(directory).absolute()
        if not self._directory.is_dir():
            raise UserError(f"no folder {self._directory}")
        self._metric = metric
        self._tell = tell
        self._records: dict[int, Record] = {}
        self.damaged: dict[int, str] = {}

    def all_steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints in order, without a save under way.

        Raises:
            UserError: A newer version of this project wrote one of them.
        """
        found = sorted(self._listed())
        return [step for step in found if step not in self.damaged and self._has_record(step)]

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return max(self.all_steps(), default=None)

    def best_step(self) -> int | None:
        """Returns the step of the complete checkpoint with the highest score, or None."""
        return max(self._scored(), key=self._rank, default=None)

    def newest_first(self) -> list[int]:
        """Returns all steps, the newest first."""
        return self.all_steps()[::-1]

    def best_first(self) -> list[int]:
        """Returns the scored steps, the best and of equals the newest first; then the others."""
        scored = sorted(self._scored(), key=self._rank, reverse=True)
        return scored + [step for step in self.newest_first() if step not in scored]

    def metrics(self, step: int) -> dict[str, float] | None:
        """Returns the scores that the checkpoint of `step` was saved with."""
        return self._record(step).scores

    def notes(self, step: int) -> dict[str, Any]:
        """Returns the notes that the checkpoint of `step` was saved with."""
        return self._record(step).notes

    def restore(self, step: int, abstract_state: PyTree) -> PyTree:
        """Reads the state of `step`, and checks every digest.

        Args:
            step: Which checkpoint.
            abstract_state: Tree of shapes and dtypes (`jax.eval_shape`) that the state must have;
                what says no sharding goes onto the default device.

        Raises:
            UserError: There is none, or the saved tree differs, with the names that do.
            DamagedCheckpoint: Something is not as it was saved.
        """
        record, folder = self._record(step), self._directory / str(step)
        if problem := describe_differences(record.types, leaf_types(abstract_state)):
            raise UserError(f"checkpoint {folder} does not fit: {problem}")
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or here
            ),
            abstract_state,
        )
        return load_arrays(folder, record, target)

    def restore_first(self, steps: Iterable[int], abstract_state: PyTree) -> tuple[int, PyTree]:
        """Restores the first of `steps` that is not damaged; see `restore`.

        Returns:
            Its step and its state.

        Raises:
            UserError: The saved tree differs, or none of them can be used: names what is wrong.
        """
        for step in steps:
            try:
                return step, self.restore(step, abstract_state)
            except DamagedCheckpoint as problem:
                # Beside a process that saves, a checkpoint may be deleted while it is read.
                if (self._directory / str(step)).exists():
                    self._pass_over(step, problem.reason)
        raise UserError(self._nothing_left())

    def _listed(self) -> Iterable[int]:
        for path in self._directory.iterdir():
            if path.name.isdecimal() and path.name == str(int(path.name)):
                yield int(path.name)

    def _has_record(self, step: int) -> bool:
        """Reads the record of `step`, if it was not yet; passes over the step if it is damaged."""
        if step not in self._records:
            folder = self._directory / str(step)
            try:
                self._records[step] = read_record(folder)
            except DamagedCheckpoint as problem:
                if folder.exists():
                    self._pass_over(step, problem.reason)
                return False
        return True

    def _record(self, step: int) -> Record:
        steps = self.all_steps()
        if step in steps:
            return self._records[step]
        folder = self._directory / str(step)
        if step in self.damaged:
            raise DamagedCheckpoint(folder, self.damaged[step])
        raise UserError(f"no checkpoint of step {step} in {self._directory}, only of {steps}")

    def _scored(self) -> list[int]:
        return [step for step in self.all_steps() if self._records[step].scores]

    def _rank(self, step: int) -> tuple[float, int]:
        return (self._records[step].scores or {})[self._metric], step

    def _pass_over(self, step: int, reason: str) -> None:
        """Tells of a damaged checkpoint, which then counts no more."""
        self._records.pop(step, None)
        self.damaged[step] = reason
        self._tell(f"checkpoint {self._directory / str(step)} is damaged: {reason}")

    def _nothing_left(self) -> str:
        if not self.damaged:
            return f"no checkpoint in {self._directory}; train first"
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in self.damaged.items())
        return f"every checkpoint in {self._directory} is damaged ({reasons})"
