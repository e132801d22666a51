"""What a compiled function costs, as XLA counts it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Cost(NamedTuple):
    """Cost of one run of a program.

    Attributes:
        flops: floating-point operations. XLA counts the body of a loop once, however often it
            runs: a sequential scan over time is there with one of its steps.
        temporary_bytes: most memory that it holds at once beside its arguments and results.
    """

    flops: float
    temporary_bytes: int


def program_cost(function: Callable[..., Any], *args: Any) -> Cost:
    """Compiles a function for the default device and returns what one run of it costs.

    Args:
        function: maps arrays to arrays; for instance `model.apply`, or the gradient of a loss.
        *args: its arguments, or their shapes (`jax.eval_shape`).

    Raises:
        NotImplementedError: the platform does not tell.
    """
    program = jax.jit(function).lower(*args).compile()
    cost, memory = program.cost_analysis(), program.memory_analysis()
    if not cost or memory is None:
        raise NotImplementedError(f"no cost analysis on {jax.default_backend()}")
    return Cost(float(cost["flops"]), int(memory.temp_size_in_bytes))
