"""Several processes that are one run: how they meet, who writes, and what happens if one is lost.

All processes run the same program on the same config and folder. Each has its own devices, and
reads its own part of every batch; the first of them writes what is not an array. What the others
know of each other goes through JAX's coordinator, which lives in the first process.
"""

import atexit
import contextlib
import ctypes
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax._src import distributed  # the coordinator has no public name
from jax.experimental import multihost_utils

from common.errors import UserError

POLL_SECONDS = 0.5
SILENCE_SECONDS = 15.0
"""Time without a sign of life after which a process counts as lost."""

VERDICT_SECONDS = SILENCE_SECONDS + 4 * POLL_SECONDS
"""Time after which a loss is known."""

_waits = itertools.count()

PATIENCE = 7 * 24 * 3600
"""Seconds that processes wait for each other; a lost one ends the waiting much sooner."""


def is_first() -> bool:
    """Tells whether this process is the one that writes."""
    return jax.process_index() == 0


def has_others() -> bool:
    """Tells whether this process is one of several."""
    return jax.process_count() > 1


def wait_for_all(name: str) -> None:
    """Waits until every process has come here.

    Args:
        name: of the place.
    """
    if has_others():
        place = f"{name} {next(_waits)}"  # a name serves once
        client: Any = distributed.global_state.client
        client.wait_at_barrier(place, PATIENCE * 1000)


@contextlib.contextmanager
def first_alone(name: str) -> Iterator[None]:
    """Lets the first process do what is inside before the others do.

    Args:
        name: of what they do.
    """
    if not is_first():
        wait_for_all(name)
    yield
    if is_first():
        wait_for_all(name)


def require_same(number: int, what: str) -> None:
    """Checks that all processes have the same number.

    Raises:
        UserError: they have not.
    """
    if not has_others():
        return
    found = multihost_utils.process_allgather(np.asarray(number)).tolist()
    if len(set(found)) > 1:
        raise UserError(
            f"{what}: the processes find {', '.join(map(str, found))}; they need one folder that "
            "all of them see"
        )


@contextlib.contextmanager
def joined(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> Iterator[None]:
    """Makes this process one of several while inside; call it before any other use of JAX.

    What is None is found out from SLURM, Kubernetes, Cloud TPU or MPI. If another process is lost,
    or fails, this one ends with a message on standard error and status 1, whatever it is doing.

    Args:
        coordinator: HOST:PORT where the first process listens.
        processes: how many there are.
        process: number of this one, from 0.

    Raises:
        UserError: the processes cannot find each other.
    """
    # On CPUs two programs at once would get each other's messages.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise UserError(
            f"--distributed: the processes cannot meet ({reason}); give --coordinator=HOST:PORT, "
            "--processes=N and --process=I, or start them by SLURM, Kubernetes or the like"
        ) from None
    watch = _Watch()
    watch.start()
    try:
        yield
        wait_for_all("end")
    except BaseException as error:
        watch.report(error)
        # JAX would wait for the others, which are ending.
        atexit.register(_leave, 2 if isinstance(error, UserError) else 1)
        raise
    finally:
        watch.stop()
    jax.distributed.shutdown()


class _Watch(threading.Thread):
    """Gives signs of life, and ends the process when another one gives none, or has failed."""

    def __init__(self):
        super().__init__(name="watch", daemon=True)
        state = distributed.global_state
        self._client: Any = state.client
        self._coordinator = str(state.coordinator_address)
        self._process, self._processes = jax.process_index(), jax.process_count()
        self._stopped = threading.Event()
        self._seen: dict[str, tuple[str, float]] = {}
        self._last_words = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._aborted)
        ctypes.CDLL(None).signal(signal.SIGABRT, self._last_words)

    def run(self) -> None:
        """Looks at the others until stopped."""
        beats = 0
        while not self._stopped.wait(POLL_SECONDS):
            beats += 1
            try:
                self._client.key_value_set(f"alive/{self._process}", str(beats), True)
                alive = dict(self._client.key_value_dir_get("alive/"))
                failed = dict(self._client.key_value_dir_get("failed/"))
            except Exception:
                if not self._stopped.is_set():
                    self._end(f"process 0 of {self._processes} ({self._coordinator}) has ended")
                return
            self._look_at(alive, failed)

    def report(self, error: BaseException) -> None:
        """Tells the others of a failure here; if theirs was first, it is told of and ends all."""
        if isinstance(error, RuntimeError):  # of a collective that a lost process has left
            time.sleep(VERDICT_SECONDS)
        self._stopped.set()
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        with contextlib.suppress(Exception):
            self._client.key_value_set(f"failed/{self._process}", reason, True)
            time.sleep(4 * POLL_SECONDS)

    def stop(self) -> None:
        """Ends the watch."""
        self._stopped.set()
        self.join()

    def _look_at(self, alive: dict[str, str], failed: dict[str, str]) -> None:
        now = time.monotonic()
        for key, reason in failed.items():
            number = int(key.rpartition("/")[2])
            if number != self._process:
                self._end(f"process {number} of {self._processes} has failed: {reason}")
        for key, beat in alive.items():
            if self._seen.get(key, ("", 0.0))[0] != beat:
                self._seen[key] = (beat, now)
            elif now - self._seen[key][1] > SILENCE_SECONDS:
                number = key.rpartition("/")[2]
                self._end(
                    f"process {number} of {self._processes} has given no sign of life for "
                    f"{SILENCE_SECONDS:.0f} s"
                )

    def _end(self, what: str) -> None:
        _write(what)
        os._exit(1)

    def _aborted(self, signum: int) -> None:
        """Gives the watch time to say why, where JAX aborts this process for the loss of another.

        It does so when its coordinator ends, and on CPUs when messages of a collective go astray.
        """
        time.sleep(VERDICT_SECONDS)
        ctypes.CDLL(None).signal(signal.SIGABRT, None)  # something else: as without this handler


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _write(what: str) -> None:
    """Writes at once, as there may be no later."""
    text = f"error: {what}; the others end too: run the same command for all of them to go on\n"
    sys.stdout.flush()
    os.write(2, text.encode())
