"""Array annotations and the axis names that every signature of the project uses.

Axis names, from the outside in:

    *b      leading batch axes, any number
    t       time
    h w     height and width in space
    f       frequencies of the last axis of a real FFT, w // 2 + 1
    c       channels
    n       states of a recurrence
    k l     height and width of a convolution kernel
    s q     keys and queries of attention
    d       embedding
    heads   attention heads
"""

from typing import Any

from jaxtyping import Array, Bool, Complex, Float, Inexact, Int, UInt8

PyTree = Any
PRNGKey = Array
Time = int | Int[Array, ""]
"""Number of a frame in its sequence, from 0; an array where it is traced."""

__all__ = [
    "Array",
    "Bool",
    "Complex",
    "Float",
    "Inexact",
    "Int",
    "PRNGKey",
    "PyTree",
    "Time",
    "UInt8",
]
