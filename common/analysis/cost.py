"""What a compiled function costs, as XLA counts it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from common.compiled import temporary_bytes
from common.kernels.scan_choice import native_code


class Cost(NamedTuple):
    """Cost of one run of a program.

    Attributes:
        flops: floating-point operations, see `count_flops`.
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
    compiled = jax.jit(function).lower(*args).compile()
    return Cost(count_flops(function, *args), temporary_bytes(compiled))


def count_flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Returns XLA's count of a function's operations, with scans taken as often as they run."""
    with native_code(allowed=False):
        traced = jax.jit(function).trace(*arguments)
    return _xla_flops(traced) + _uncounted_flops(traced.jaxpr.jaxpr)


def _xla_flops(traced: Any) -> float:
    return float(traced.lower().cost_analysis()["flops"])


def _uncounted_flops(jaxpr: Jaxpr) -> float:
    """Returns what XLA leaves out, which takes the body of every loop once."""
    total = 0.0
    for equation in jaxpr.eqns:
        for body in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if not _is_jaxpr(body):
                continue
            inner = body.jaxpr if isinstance(body, ClosedJaxpr) else body
            runs = equation.params["length"] if equation.primitive.name == "scan" else 1
            total += runs * _uncounted_flops(inner)
            if runs > 1:
                shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in body.in_avals]
                total += (runs - 1) * _xla_flops(jax.jit(jaxpr_as_fun(body)).trace(*shapes))
    return total


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, Jaxpr | ClosedJaxpr)
