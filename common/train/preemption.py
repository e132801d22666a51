"""Stopping a run from outside without losing a step."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from jax.experimental import multihost_utils


class Preempted(Exception):
    """Ends a run that was asked to stop, after its state was saved.

    Attributes:
        step: Number of finished steps, all of them in the checkpoint.
        exit_code: Status for the command line: 130 after Ctrl-C, otherwise 0.
    """

    def __init__(self, step: int, signum: int):
        self.step = step
        self.exit_code = 130 if signum == signal.SIGINT else 0
        super().__init__(f"stopped at step {step}; run the same command to go on")


class StopRequest:
    """Notes SIGTERM and Ctrl-C while it is entered, for the loop to act on between two steps.

    A second Ctrl-C leaves at once with `KeyboardInterrupt`; a second SIGTERM does nothing. On
    leaving, the handlers from before are back. Outside the main thread, where Python allows no
    handlers, it never notes anything.

    Attributes:
        signum: The signal that asked to stop, or None.
    """

    def __init__(self):
        self.signum: int | None = None
        self._interrupts = 0
        self._previous: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._previous:
            signum, handler = self._previous.popitem()
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def requested(self) -> bool:
        """Tells whether the run should save and stop."""
        return self.signum is not None

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._interrupts += signum == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        self.signum = self.signum or signum


class SharedStopRequest(StopRequest):
    """The same in several processes: a signal to one of them stops all, after the same step.

    JAX's own handler notes SIGTERM, and its coordinator agrees on the moment; so all processes must
    ask equally often. Ctrl-C counts as SIGTERM, except for the exit status.
    """

    def __init__(self):
        super().__init__()
        self._asked = 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._pass_on)
        return self

    def requested(self) -> bool:
        """Tells whether the run should save and stop, in all processes alike."""
        if self.signum is None:
            self._asked += 1
            if multihost_utils.reached_preemption_sync_point(self._asked):
                self.signum = signal.SIGINT if self._interrupts else signal.SIGTERM
        return self.signum is not None

    def _pass_on(self, signum: int, frame: FrameType | None) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGTERM)
