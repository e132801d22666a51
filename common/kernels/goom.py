"""Numbers of any magnitude, z = mantissa * 2^exponent, for recurrences that leave float range.

A log-space format after Heinsen and Kozachkov 2025, "Generalized Orders of Magnitude for Scalable,
Parallel, High-Dynamic-Range Computation": log2 z = exponent + log2 mantissa, in two parts. The
whole part is an integer and thus exact, however large; the rest stands in linear form, its larger
part in [1, 2) after every operation. Against one complex logarithm this keeps float's relative
precision at every magnitude (a float32 near log z = 200 is rounded by up to 8e-6 after every
operation), needs neither exp nor log nor an angle that winds up, represents zero without a floor,
and its gradients are those of plain arithmetic, also at zero. `to_log` and `from_log` give and take
the paper's complex logarithms, log 0 = -inf.

Gradients of `from_goom` vanish where the value lies below float range and overflow where it lies
above; those of `to_log` are good everywhere but at zero, where they are set to 0.
"""

import math
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax

from common.array_types import Array, Complex, Inexact, Int

Backend = Literal["sequential", "associative"]
Output = Literal["all", "last"]


class Goom(NamedTuple):
    """Numbers mantissa * 2^exponent; a pytree, its arrays have one shape.

    Attributes:
        mantissa: real or complex, its larger part in [1, 2), or 0; inputs at the ends of float
            range may lie outside, so that no scale overflows in their gradients.
        exponent: int32.
    """

    mantissa: Inexact[Array, "*b"]
    exponent: Int[Array, "*b"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the numbers."""
        return self.mantissa.shape


@jax.jit
def to_goom(x: Inexact[Array, "*b"]) -> Goom:
    """Converts floats exactly, in float32 at least; subnormal ones and zero too.

    Of a complex number a part that is 1e38 times smaller than the other is lost.
    """
    x = jnp.asarray(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    exponent = _exponent_of(x)
    return Goom(_scale_exactly(x, -exponent), exponent)


@jax.jit
def from_goom(x: Goom) -> Inexact[Array, "*b"]:
    """Converts to floats, rounded to nearest; infinite or zero where float range ends."""
    return _scale_exactly(x.mantissa, x.exponent)


@jax.jit
def from_log(log: Inexact[Array, "*b"]) -> Goom:
    """Converts natural logarithms; -inf is zero, the imaginary part is the angle."""
    log = jnp.asarray(log)
    log = log.astype(jnp.promote_types(log.dtype, jnp.float32))
    is_zero = log.real == -jnp.inf
    log = jnp.where(is_zero, 0.0, log)
    exponent = jnp.round(lax.stop_gradient(log.real) / math.log(2.0))
    remainder = (log - exponent * 0.693359375) + exponent * 2.12194440054690583e-4  # log 2, split
    mantissa = jnp.where(is_zero, 0.0, jnp.exp(remainder))
    return _normalise(mantissa, exponent.astype(jnp.int32))


@jax.jit
def to_log(x: Goom) -> Complex[Array, "*b"]:
    """Returns natural logarithms, the angle in (-pi, pi]; -inf for zero, with gradient 0."""
    is_zero = x.mantissa == 0
    mantissa = jnp.where(is_zero, 1.0, x.mantissa)
    log = jnp.log(mantissa.astype(jnp.promote_types(mantissa.dtype, jnp.complex64)))
    return jnp.where(is_zero, -jnp.inf, log + x.exponent * math.log(2.0))


@jax.jit
def multiply(a: Goom, b: Goom) -> Goom:
    """Returns a * b elementwise; the shapes broadcast."""
    return _normalise(a.mantissa * b.mantissa, a.exponent + b.exponent)


@jax.jit
def add(a: Goom, b: Goom) -> Goom:
    """Returns a + b elementwise; the shapes broadcast."""
    shape = jnp.broadcast_shapes(a.shape, b.shape)
    dtype = jnp.result_type(a.mantissa, b.mantissa)
    pair = [
        Goom(jnp.broadcast_to(x.mantissa, shape).astype(dtype), jnp.broadcast_to(x.exponent, shape))
        for x in (a, b)
    ]
    return sum_over(jax.tree.map(lambda *x: jnp.stack(x), *pair), axis=0)


@partial(jax.jit, static_argnames="axis")
def sum_over(x: Goom, axis: int) -> Goom:
    """Returns the sum over one axis; terms are lost only below the precision of the largest."""
    is_zero = x.mantissa == 0
    lowest = jnp.where(is_zero, jnp.iinfo(jnp.int32).min, x.exponent)
    highest = jnp.where(is_zero.all(axis), x.exponent.max(axis), lowest.max(axis))
    shift = x.exponent - jnp.expand_dims(highest, axis)
    scale = _power_of_two(shift, x.mantissa.real.dtype)
    return _normalise((x.mantissa * scale).sum(axis), highest)


@jax.jit
def matmul(a: Goom, b: Goom) -> Goom:
    """Returns matrix products, (*b, i, k) by (*b, k, j); every entry by its own largest term."""
    mantissa = a.mantissa[..., :, :, None] * b.mantissa[..., None, :, :]
    exponent = a.exponent[..., :, :, None] + b.exponent[..., None, :, :]
    return sum_over(Goom(mantissa, exponent), axis=-2)


@jax.jit
def matvec(a: Goom, x: Goom) -> Goom:
    """Returns matrices (*b, i, k) times vectors (*b, k)."""
    mantissa = a.mantissa * x.mantissa[..., None, :]
    return sum_over(Goom(mantissa, a.exponent + x.exponent[..., None, :]), axis=-1)


@jax.jit
def affine(matrix: Goom, offset: Goom) -> Goom:
    """Returns maps x -> matrix x + offset as (*b, n, n + 1), the offset in the last column."""
    return _join(matrix, jax.tree.map(lambda part: part[..., None], offset), -1)


@jax.jit
def compose(first: Goom, second: Goom) -> Goom:
    """Returns the `affine` map that applies `first` and then `second`.

    The associative operator of s_t = M_t s_{t-1} + b_t, for `lax.associative_scan`: the product of
    the two in homogeneous coordinates, where first has one more row, (0, ..., 0, 1).
    """
    row = jnp.zeros_like(first.mantissa[..., :1, :]).at[..., -1].set(1)
    return matmul(second, _join(first, Goom(row, jnp.zeros(row.shape, jnp.int32)), -2))


@jax.jit
def step(state: Goom, map_t: Goom) -> Goom:
    """Returns M_t state + b_t for the `affine` map of M_t and b_t: a sequential scan's step."""
    one = jnp.ones_like(state.mantissa[..., :1])
    return matvec(map_t, _join(state, Goom(one, jnp.zeros(one.shape, jnp.int32)), -1))


def _join(a: Goom, b: Goom, axis: int) -> Goom:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis), a, b)


@partial(jax.jit, static_argnames=("backend", "reverse", "output"))
def linear_scan(
    transition: Goom | Inexact[Array, "*b t n n"],
    inputs: Goom | Inexact[Array, "*b t n"],
    initial: Goom | Inexact[Array, "*b n"] | None = None,
    *,
    backend: Backend = "sequential",
    reverse: bool = False,
    output: Output = "all",
) -> Goom:
    """Solves s_t = M_t s_{t-1} + b_t; floats are converted, the states stay in this format.

    Args:
        transition: M_t, (*b, t, n, n).
        inputs: b_t, (*b, t, n).
        initial: the state before the first step, (*b, n); zero where None.
        backend: 'sequential' (one step after the other; the backward pass keeps the states alone)
            or 'associative' (`lax.associative_scan`).
        reverse: run from the last time to the first.
        output: 'all' states (*b, t, n), or the 'last' one that is reached, (*b, n).

    Raises:
        ValueError: unknown back end or output, or shapes that do not fit.
    """
    for name, value, kind in (("backend", backend, Backend), ("output", output, Output)):
        if value not in get_args(kind):
            raise ValueError(f"{name} is {value!r}; choose one of {get_args(kind)}")
    numbers = [transition, inputs] if initial is None else [transition, inputs, initial]
    matrices, offsets, *start = _of_one_dtype([_as_goom(x) for x in numbers])
    _check_shapes(matrices.shape, offsets.shape, start[0].shape if start else None)
    state = start[0] if start else jax.tree.map(lambda x: jnp.zeros_like(x[..., 0, :]), offsets)
    maps = _move_axis(affine(matrices, offsets), -3, 0)
    if reverse:
        maps = jax.tree.map(lambda x: x[::-1], maps)
    states = (_scan_steps if backend == "sequential" else _scan_tree)(maps, state, output)
    if output == "last":
        return states
    return _move_axis(jax.tree.map(lambda x: x[::-1], states) if reverse else states, 0, -2)


def _scan_steps(maps: Goom, state: Goom, output: Output) -> Goom:
    @jax.checkpoint
    def body(state: Goom, map_t: Goom) -> tuple[Goom, Goom | None]:
        state = step(state, map_t)
        return state, state if output == "all" else None

    last, states = lax.scan(body, state, maps)
    return last if states is None else states


def _scan_tree(maps: Goom, state: Goom, output: Output) -> Goom:
    first = step(state, jax.tree.map(lambda x: x[0], maps))
    maps = jax.tree.map(lambda x, x_0: x.at[0, ..., -1].set(x_0), maps, first)
    composed = lax.associative_scan(compose, maps)
    states = jax.tree.map(lambda x: x[..., -1], composed)
    return jax.tree.map(lambda x: x[-1], states) if output == "last" else states


def _as_goom(x: Goom | Array) -> Goom:
    return x if isinstance(x, Goom) else to_goom(x)


def _of_one_dtype(numbers: list[Goom]) -> list[Goom]:
    dtype = jnp.result_type(*(x.mantissa for x in numbers))
    return [x._replace(mantissa=x.mantissa.astype(dtype)) for x in numbers]


def _move_axis(x: Goom, source: int, target: int) -> Goom:
    return jax.tree.map(lambda part: jnp.moveaxis(part, source, target), x)


def _check_shapes(matrices: tuple, offsets: tuple, state: tuple | None) -> None:
    if matrices != (*offsets, *offsets[-1:]) or len(offsets) < 2:
        raise ValueError(f"transition {matrices} does not fit inputs {offsets}")
    expected = (*offsets[:-2], offsets[-1])
    if state is not None and state != expected:
        raise ValueError(f"initial has shape {state}; expected {expected}")


def _normalise(mantissa: Array, exponent: Array) -> Goom:
    """Moves whole powers of two from the mantissa to the exponent; zero stays as it is."""
    shift = _exponent_of(mantissa)
    return Goom(mantissa * _power_of_two(-shift, mantissa.real.dtype), exponent + shift)


def _exponent_of(x: Array) -> Array:
    """Returns floor(log2) of the larger part, within +-126 in float32; 0 for zero.

    From the bits, as every comparison and product of subnormal floats may see zeros: XLA's CPU code
    flushes them.
    """
    parts = (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
    info = jnp.finfo(x.dtype)
    size = _magnitude_bits(parts[0])
    for part in parts[1:]:
        size = jnp.maximum(size, _magnitude_bits(part))
    exponent = ((size >> info.nmant) + (info.minexp - 1)).astype(jnp.int32)
    return jnp.where(size == 0, 0, jnp.clip(exponent, info.minexp, -info.minexp))


def _power_of_two(exponent: Array, dtype: jnp.dtype) -> Array:
    """Returns 2^exponent; 0 below the normal range, the largest power above it."""
    info = jnp.finfo(dtype)
    clipped = jnp.clip(exponent, info.minexp, info.maxexp - 1).astype(_integer(dtype))
    power = lax.bitcast_convert_type((clipped - (info.minexp - 1)) << info.nmant, dtype)
    return jnp.where(exponent < info.minexp, jnp.zeros((), dtype), power)


@jax.custom_jvp
def _scale_exactly(x: Array, shift: Array) -> Array:
    """Returns x * 2^shift, rounded to nearest, from and to subnormal numbers too."""
    if jnp.iscomplexobj(x):
        return lax.complex(_scale_real(x.real, shift), _scale_real(x.imag, shift))
    return _scale_real(x, shift)


@_scale_exactly.defjvp
def _scale_exactly_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x, shift = primals
    return _scale_exactly(x, shift), tangents[0] * _power_of_two(shift, x.real.dtype)


def _scale_real(x: Array, shift: Array) -> Array:
    info, integer = jnp.finfo(x.dtype), _integer(x.dtype)
    size = _magnitude_bits(x)
    subnormal = size < (1 << info.nmant)
    normal = jnp.where(subnormal, size.astype(x.dtype), jnp.abs(x))
    bits = lax.bitcast_convert_type(normal, integer)
    exponent = (bits >> info.nmant) + (info.minexp - 1) + shift
    exponent = exponent + jnp.where(subnormal, info.minexp - info.nmant, 0)
    one = lax.bitcast_convert_type(jnp.ones((), x.dtype), integer)
    unit = lax.bitcast_convert_type((bits & ((1 << info.nmant) - 1)) | one, x.dtype)
    high = unit * _power_of_two(exponent, x.dtype)
    high = high * _power_of_two(jnp.maximum(exponent - (info.maxexp - 1), 0), x.dtype)
    steps = jnp.rint(unit * _power_of_two(exponent - (info.minexp - info.nmant), x.dtype))
    low = lax.bitcast_convert_type(steps.astype(integer), x.dtype)
    scaled = jnp.where(exponent < info.minexp, low, high)
    scaled = jnp.where((size == 0) | ~jnp.isfinite(x), jnp.abs(x), scaled)
    return _with_sign_of(x, scaled)


def _with_sign_of(x: Array, size: Array) -> Array:
    integer = _integer(x.dtype)
    sign = lax.bitcast_convert_type(x, integer) & jnp.iinfo(integer).min
    return lax.bitcast_convert_type(lax.bitcast_convert_type(size, integer) | sign, x.dtype)


def _magnitude_bits(x: Array) -> Array:
    integer = _integer(x.dtype)
    return lax.bitcast_convert_type(lax.stop_gradient(x), integer) & jnp.iinfo(integer).max


def _integer(dtype: jnp.dtype) -> jnp.dtype:
    return jnp.dtype(f"int{8 * jnp.dtype(dtype).itemsize}")
