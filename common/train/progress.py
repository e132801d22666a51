"""What a person sees while a run goes on."""

import sys
import time
from collections.abc import Mapping
from typing import Protocol, TextIO

TTY_SECONDS = 0.2
PLAIN_SECONDS = 10.0


class Progress(Protocol):
    """Hears from the training loop; an exception raised here ends the run."""

    def begin(self, step: int, total: int, batch_size: int) -> None:
        """Hears that steps are about to be made, after `step` of `total`."""
        ...

    def update(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """Hears after every step, with the newest values if there are any."""
        ...

    def message(self, text: str) -> None:
        """Hears of an event that a person should know of."""
        ...

    def close(self) -> None:
        """Hears that the run is over."""
        ...


class NoProgress:
    """Shows nothing."""

    def begin(self, step: int, total: int, batch_size: int) -> None:
        """Does nothing."""

    def update(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """Does nothing."""

    def message(self, text: str) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


class ProgressLine:
    """Writes one line that tells how far a run is and how long it will take.

    On a terminal the line is rewritten in place, five times a second; elsewhere a new one is
    written every ten seconds and at the last step.

    Args:
        stream: Where to write, by default standard error.
        interval: Seconds between two lines; by default as above.
    """

    def __init__(self, stream: TextIO | None = None, interval: float | None = None):
        self._stream = stream or sys.stderr
        self._rewrite = self._stream.isatty()
        default = TTY_SECONDS if self._rewrite else PLAIN_SECONDS
        self._interval = default if interval is None else interval
        self._values: dict[str, float] = {}
        self._width = 0
        self._total = self._batch_size = 0
        self._first = self._next_time = 0.0
        self._first_step: int | None = None

    def begin(self, step: int, total: int, batch_size: int) -> None:
        """Announces the compilation, which the first step waits for."""
        self._total, self._batch_size, self._first_step = total, batch_size, None
        self.message("compiling ..." if step == 0 else f"resuming after step {step}, compiling ...")

    def update(self, step: int, values: Mapping[str, float] | None = None) -> None:
        """Shows the step, if it is time to, with the values heard last."""
        self._values.update(values or {})
        now = time.monotonic()
        if self._first_step is None:
            self._first_step, self._first = step, now
        elif now < self._next_time and step < self._total:
            return
        self._next_time = now + self._interval
        self._show(self._describe(step, now - self._first))

    def message(self, text: str) -> None:
        """Writes a line that stays."""
        self._show(text)
        self._end_line()

    def close(self) -> None:
        """Leaves the last line standing."""
        self._end_line()

    def _describe(self, step: int, seconds: float) -> str:
        parts = [f"step {step}/{self._total}", f"{100 * step / self._total:.0f}%"]
        done = step - (self._first_step or 0)
        if done and seconds:
            rate = done / seconds
            left = (self._total - step) / rate
            parts += [f"{rate:.3g} steps/s", f"{rate * self._batch_size:.3g} examples/s"]
            parts += [f"ETA {format_seconds(left)}"]
        parts += [f"{name} {value:.4g}" for name, value in self._values.items()]
        return "  ".join(parts)

    def _show(self, line: str) -> None:
        if self._rewrite:
            self._stream.write(f"\r{line:<{self._width}}")
            self._width = len(line)
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def _end_line(self) -> None:
        if self._rewrite and self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0


def format_seconds(seconds: float) -> str:
    """Formats a duration as '0:42', '12:05' or '3:12:05'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
