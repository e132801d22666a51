"""Which back end `linear_scan` takes by itself."""

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple

import jax

_native = ContextVar("native", default=True)


@contextlib.contextmanager
def native_code(allowed: bool) -> Iterator[None]:
    """Lets 'auto' take the back end 'native', or not: for programs that XLA must see whole.

    Such are those whose operations are counted, or that are exported for another machine. It counts
    where a scan is traced: what was compiled outside stays as it is.
    """
    token = _native.set(allowed)
    try:
        yield
    finally:
        _native.reset(token)


class Rule(NamedTuple):
    """A back end for a range of sizes.

    Attributes:
        backend: what to take.
        reason: why.
        steps: from this number of steps on.
        up_to: up to this number of steps.
        lanes: up to this number of independent recurrences.
    """

    backend: str
    reason: str
    steps: int = 0
    up_to: float = math.inf
    lanes: float = math.inf


RULES = {
    "cpu": (Rule("sequential", "a step on a CPU costs little more than its arithmetic"),),
    "gpu": (
        Rule("sequential", "few steps; a guess, not measured on a GPU", up_to=32),
        Rule("chunked", "many short steps leave a GPU idle; a guess, not measured on one"),
    ),
}
"""The first rule that fits counts; platforms that are not named take those of the GPU.

CPU: `python -m experiments.benchmarks.scan`, two cores of an Intel Xeon at 2.1 GHz, 2026-11-22. In
processor time native is ahead of sequential, and that of chunked, at every number of steps and
lanes in the benchmark, forward and backward. Native is for a process with one device: XLA gathers
the arrays of a foreign function on every device.
"""


class Choice(NamedTuple):
    """A back end and the reason for it."""

    backend: str
    reason: str


def choose_backend(
    steps: int, lanes: int = 1024, *, shared_gates: bool = True, platform: str | None = None
) -> Choice:
    """Returns the back end that 'auto' takes, and why.

    'pallas' is never taken by itself: no GPU has run it yet.

    Args:
        steps: number of time steps.
        lanes: number of recurrences side by side, as batch, frequencies and channels make them.
        shared_gates: whether the transition is a coupled one whose gates the channels share.
        platform: 'cpu', 'gpu' or another; that of the process where None.
    """
    platform = platform or jax.default_backend()
    if platform == "cpu" and shared_gates and _native.get() and jax.device_count() == 1:
        return Choice("native", "a CPU is fastest with some rows at a time, through all steps")
    rules = RULES.get(platform, RULES["gpu"])
    rule = next(r for r in rules if r.steps <= steps <= r.up_to and lanes <= r.lanes)
    return Choice(rule.backend, rule.reason)
