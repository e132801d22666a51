"""Which back end `linear_scan` takes by itself."""

import math
from typing import NamedTuple

import jax


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
processor time sequential is ahead of chunked from 4 steps on: forward 3.6 times at 4 steps, 5 to 8
times at 256 to 4,096 and 4 times at 16,384; backward 2 to 6 times.
"""


class Choice(NamedTuple):
    """A back end and the reason for it."""

    backend: str
    reason: str


def choose_backend(steps: int, lanes: int = 1024, *, platform: str | None = None) -> Choice:
    """Returns the back end that 'auto' takes, and why.

    'pallas' is never taken by itself: no GPU has run it yet.

    Args:
        steps: number of time steps.
        lanes: number of recurrences side by side, as batch, frequencies and channels make them.
        platform: 'cpu', 'gpu' or another; that of the process where None.
    """
    rules = RULES.get(platform or jax.default_backend(), RULES["gpu"])
    fits = (r for r in rules if r.steps <= steps <= r.up_to and lanes <= r.lanes)
    rule = next(fits)
    return Choice(rule.backend, rule.reason)
