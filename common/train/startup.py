"""What a run waits for before it trains: data, the state, the compilation, the first step."""

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Iterator

import jax

COMPILED, READ = "/jax/core/compile/backend_compile_duration", "/jax/compilation_cache/cache_hits"
"""Names of JAX's events: a program was compiled or read from the cache; it was read."""


class Startup:
    """Measures the way to the end of the first step, without the time that data takes.

    Begin it before the data is made.
    """

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self._events = _events()
        self._before = self._events.copy()
        self._data = 0.0
        self._found: dict[str, float] = {}

    @contextlib.contextmanager
    def data(self) -> Iterator[None]:
        """Measures the time inside as that of the data."""
        begin = time.perf_counter()
        yield
        self._data += time.perf_counter() - begin

    def first_step_done(self) -> str:
        """Ends the measurement; returns it as a sentence."""
        events = self._events - self._before
        read = events[READ]
        self._found = {
            "data_seconds": self._data,
            "first_step_seconds": time.perf_counter() - self._begin - self._data,
            "programs_compiled": max(0, events[COMPILED] - read),
            "programs_read": read,
        }
        return (
            f"first step done after {self._found['first_step_seconds']:.1f} s (data before it: "
            f"{self._data:.1f} s); compiled {self._found['programs_compiled']} programs, "
            f"{read} came from the cache"
        )

    def timing(self) -> dict[str, float]:
        """Returns the measurement: seconds, and numbers of programs; empty before its end."""
        return dict(self._found)


@functools.cache
def _events() -> Counter[str]:
    """Returns the counter of JAX's events, which counts from the first call on."""
    counter: Counter[str] = Counter()

    def count(event: str, **details: str | int) -> None:
        counter[event] += 1

    def count_duration(event: str, duration_secs: float, **details: str | int) -> None:
        counter[event] += 1

    jax.monitoring.register_event_listener(count)
    jax.monitoring.register_event_duration_secs_listener(count_duration)
    return counter
