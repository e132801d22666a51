"""Speed of the training steps alone, and the time of the whole run."""

import contextlib
import time
from collections.abc import Iterator


class StepClock:
    """Measures steps per second between two log points, without what happens beside training.

    Args:
        earlier: Seconds that earlier sessions of the run took.
        batch_size: Number of examples in a step.
    """

    def __init__(self, earlier: float, batch_size: int):
        self._batch_size = batch_size
        self._origin = time.perf_counter() - earlier
        self._mark = time.perf_counter()
        self._mark_step = 0
        self._away = 0.0

    def start(self, step: int) -> None:
        """Begins to count after `step`."""
        self._mark, self._mark_step, self._away = time.perf_counter(), step, 0.0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside out of the speed."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._away += time.perf_counter() - begin

    def lap(self, step: int) -> dict[str, float | None]:
        """Returns the speed since the last lap, None if there was no step, and begins a new lap."""
        seconds = time.perf_counter() - self._mark - self._away
        steps = step - self._mark_step
        rate = steps / seconds if steps and seconds > 0 else None
        self.start(step)
        return {
            "steps_per_second": rate,
            "examples_per_second": None if rate is None else rate * self._batch_size,
            **self.total(),
        }

    def total(self) -> dict[str, float | None]:
        """Returns the time since the run began, in all its sessions."""
        return {"elapsed_seconds": time.perf_counter() - self._origin}
