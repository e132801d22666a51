"""Numbers of any magnitude against arbitrary precision, and recurrences that leave float range."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.kernels import Goom, from_goom, goom, reference, to_goom

BACKENDS: tuple[goom.Backend, ...] = ("sequential", "associative")
each_backend = pytest.mark.parametrize("backend", BACKENDS)
round_trip = jax.jit(lambda x: from_goom(to_goom(x)))
property_test = settings(max_examples=25, deadline=None, database=None, derandomize=True)
numbers = st.floats(-1e6, 1e6, width=32)


def normal(*shape: int, seed: int = 0, dtype: str = "complex64") -> Any:
    rng = np.random.default_rng([seed, *shape])
    real = rng.standard_normal(shape)
    is_complex = dtype.startswith("complex")
    return (real + 1j * rng.standard_normal(shape) if is_complex else real).astype(dtype)


def logs(x: Goom) -> np.ndarray:
    """Complex logarithms in float64, from both parts of the format."""
    mantissa = reference.widen(x.mantissa).astype(np.complex128)
    return np.log(mantissa) + np.asarray(x.exponent) * np.log(2.0)


def log_error(x: Goom, expected: np.ndarray) -> float:
    """Largest error of the logarithm of the magnitude, and of the angle in radians."""
    difference = logs(x) - expected
    return float(np.abs(np.concatenate([difference.real, wrap(difference.imag)])).max())


def wrap(angle: np.ndarray) -> np.ndarray:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def test_every_float_survives_the_round_trip_bit_for_bit() -> None:
    """Subnormal ones, zeros of both signs and infinities too, where XLA itself flushes."""
    bits = np.random.default_rng(0).integers(-(2**31), 2**31, 4096, np.int32)
    x = bits.view(np.float32)
    ends = [0.0, -0.0, 1e-45, -1e-45, 1e-40, 1.17549435e-38, 3.4028235e38, np.inf, -np.inf]
    x = np.concatenate([x[np.isfinite(x)], np.array(ends, np.float32)])
    returned = np.asarray(round_trip(x))
    np.testing.assert_array_equal(returned.view(np.int32), x.view(np.int32))
    assert np.isnan(round_trip(np.float32(np.nan)))


@pytest.mark.parametrize("dtype", ["float64", "complex64", "complex128", "bfloat16"])
def test_other_types_survive_the_round_trip(dtype: str) -> None:
    with jax.enable_x64(dtype in ("float64", "complex128")):
        x = normal(8, 16, dtype=dtype) if dtype != "bfloat16" else normal(8, 16, dtype="float32")
        x = (x * 10.0 ** np.arange(-8, 8, dtype=np.float32)).astype(jnp.dtype(dtype))
        returned = round_trip(x)
        assert returned.dtype == (jnp.float32 if dtype == "bfloat16" else dtype)
        np.testing.assert_array_equal(np.asarray(returned).astype(x.dtype), x)


def test_double_precision_has_its_own_range() -> None:
    x = np.array([5e-324, 2.2e-308, 1.7e308, -3.0, 0.0])
    with jax.enable_x64():
        np.testing.assert_array_equal(round_trip(x), x)
        square = from_goom(goom.multiply(to_goom(x), to_goom(x)))
    np.testing.assert_array_equal(square, [0.0, 0.0, np.inf, 9.0, 0.0])


def test_mantissas_are_normalised_and_exponents_exact() -> None:
    x = goom.multiply(
        to_goom(jnp.array([3.0, -1e-30, 1e30])), to_goom(jnp.array([5.0, 1e-30, 1e30]))
    )
    assert x.exponent.dtype == jnp.int32
    np.testing.assert_array_equal(x.exponent, [3, -200, 199])
    assert ((np.abs(x.mantissa) >= 1) & (np.abs(x.mantissa) < 2)).all()


def test_values_beyond_float_range_become_infinite_or_round_to_zero() -> None:
    x = Goom(
        jnp.array([1.5, -1.5, 1.5, -1.5, 1.0, 1.0]), jnp.array([128, 9999, -149, -150, -150, -9999])
    )
    expected = np.array([np.inf, -np.inf, 2.0**-148, -(2.0**-149), 0.0, 0.0], np.float32)
    returned = np.asarray(from_goom(x))
    np.testing.assert_array_equal(returned.view(np.int32), expected.view(np.int32))


def test_logarithms_are_those_of_the_numbers_and_back() -> None:
    x = normal(64) * np.float32(1e20)
    np.testing.assert_allclose(goom.to_log(to_goom(x)), np.log(x.astype(np.complex128)), rtol=1e-6)
    log = np.array([1000 + 1j, -1000 - 2j, 0, 3j], np.complex64)
    assert log_error(goom.from_log(log), log) < 3e-5
    real = goom.from_log(jnp.array([-jnp.inf, 0.0, 2.5]))
    assert real.mantissa.dtype == jnp.float32
    np.testing.assert_allclose(from_goom(real), [0.0, 1.0, np.exp(2.5)], rtol=1e-6)
    zero = goom.to_log(to_goom(jnp.zeros(1)))
    assert zero.real == -np.inf and zero.imag == 0


@jax.jit
def product_and_sum(*values: Any) -> tuple[Any, Any]:
    x, y, z = map(to_goom, values)
    return from_goom(goom.multiply(x, y)), from_goom(goom.add(goom.add(x, y), z))


@property_test
@given(a=numbers, b=numbers, c=numbers)
def test_products_and_sums_are_those_of_floats(a: float, b: float, c: float) -> None:
    x, y, z = (np.full(1, v, np.float32) for v in (a, b, c))
    product, total = product_and_sum(x, y, z)
    np.testing.assert_allclose(product, np.float64(x) * np.float64(y), rtol=2e-7, atol=2e-45)
    np.testing.assert_allclose(total, (x + y) + z, rtol=3e-7, atol=3e-7 * max(abs(a), abs(b)))


def test_sums_keep_every_term_above_the_precision_of_the_largest() -> None:
    exponents = jnp.array([[300, 299, 0], [-300, -301, -302], [0, 5, -7]])
    mantissas = jnp.array([[1.0, -1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    total = goom.sum_over(Goom(mantissas, exponents), axis=1)
    np.testing.assert_array_equal(total.mantissa, [1.0, 1.75, 0.0])
    np.testing.assert_array_equal(total.exponent[:2], [299, -300])
    left = goom.add(to_goom(jnp.zeros(1)), Goom(jnp.ones(1), jnp.full(1, -300)))
    np.testing.assert_array_equal((left.mantissa[0], left.exponent[0]), (1.0, -300))


@pytest.mark.parametrize("n", [1, 3])
def test_matrix_products_keep_entries_of_any_magnitude(n: int) -> None:
    """Rows and columns from e^-300 to e^300: a shared scale would lose most of them."""
    a, b = normal(5, n, n), normal(5, n, n, seed=1)
    scale = np.linspace(-430, 430, n).astype(np.int32) if n > 1 else np.array([430], np.int32)
    tall = to_goom(a)._replace(exponent=to_goom(a).exponent + scale[None, :, None])
    wide = to_goom(b)._replace(exponent=to_goom(b).exponent - scale[None, None, ::-1])
    product = goom.matmul(tall, wide)
    steps = np.log(2.0) * (scale[:, None] - scale[None, ::-1])
    expected = np.log((reference.widen(a) @ reference.widen(b)).astype(complex)) + steps
    assert log_error(product, expected) < 2e-6
    vector = goom.matvec(tall, to_goom(b[..., 0]))
    product = (reference.widen(a) @ reference.widen(b)[..., :1])[..., 0]
    assert log_error(vector, np.log(product) + np.log(2.0) * scale) < 2e-6


@property_test
@given(seed=st.integers(0, 2**32))
def test_composition_is_associative(seed: int) -> None:
    first, second, third = (
        goom.affine(to_goom(normal(2, 3, 3, seed=seed + i)), to_goom(normal(2, 3, seed=seed + i)))
        for i in range(3)
    )
    left = goom.compose(goom.compose(first, second), third)
    right = goom.compose(first, goom.compose(second, third))
    np.testing.assert_allclose(from_goom(left), from_goom(right), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("backend", "length"),
    [("sequential", t) for t in (1, 2, 7, 8, 33)] + [("associative", t) for t in (2, 7)],
)
def test_scan_equals_the_loop(backend: goom.Backend, length: int) -> None:
    """Any leading axes, with and without initial state, both directions; within float range."""
    batch = {1: (), 2: (4,), 7: (2, 3)}.get(length, (3,))
    n, reverse = 1 + length % 3, length % 2 == 0
    matrices = normal(*batch, length, n, n) / np.float32(np.sqrt(2 * n))
    inputs, initial = normal(*batch, length, n), normal(*batch, n, seed=1)
    initial = None if length == 33 else initial
    states = goom.linear_scan(matrices, inputs, initial, backend=backend, reverse=reverse)
    expected = reference.linear_recurrence(matrices, inputs, initial, reverse=reverse)
    np.testing.assert_allclose(from_goom(states), expected, rtol=1e-4, atol=1e-5)
    if length == 7:
        last = goom.linear_scan(matrices, inputs, initial, backend=backend, output="last")
        np.testing.assert_allclose(from_goom(last), expected[..., -1, :], rtol=1e-4, atol=1e-5)


def random_recurrence(steps: int, growth: float, dtype: str, seed: int = 0) -> tuple[Any, Any]:
    """Matrices whose product grows by e^growth, and inputs."""
    matrices = normal(steps, 3, 3, seed=seed, dtype=dtype) / np.sqrt(3.0)
    vector, measured = np.ones(3), 0.0
    for matrix in matrices:
        vector = matrix @ vector
        measured += np.log(np.linalg.norm(vector))
        vector = vector / np.linalg.norm(vector)
    matrices = matrices * np.exp((growth - measured) / steps)
    return matrices.astype(dtype), normal(steps, 3, seed=seed + 1, dtype=dtype)


def exact_logs(matrices: Any, inputs: Any, every: int) -> np.ndarray:
    """Logarithms of every so many-th state, computed with 120 binary digits."""
    state, kept = [mpmath.mpc(0)] * 3, []
    with mpmath.workprec(120):
        for t, (matrix, offset) in enumerate(zip(matrices.tolist(), inputs.tolist(), strict=True)):
            state = [mpmath.fdot(row, state) + b for row, b in zip(matrix, offset, strict=True)]
            if t % every == every - 1:
                kept.append([complex(mpmath.log(value)) for value in state])
    return np.array(kept)


@pytest.mark.parametrize(
    ("growth", "dtype", "backend"),
    [
        (200.0, "complex64", "sequential"),
        (2000.0, "float32", "sequential"),
        (-200.0, "complex64", "sequential"),
        pytest.param(200.0, "complex64", "associative", marks=pytest.mark.slow),
        pytest.param(-200.0, "complex64", "associative", marks=pytest.mark.slow),
    ],
)
def test_long_recurrence_beyond_float_range_is_right(
    growth: float, dtype: str, backend: goom.Backend
) -> None:
    """The linear scan is infinite or zero there; growth by e^2000 is beyond float64 as well."""
    matrices, inputs = random_recurrence(4096, growth, dtype)
    if growth < 0:
        inputs[1:] = 0  # nothing but the first input's decay
    expected = exact_logs(matrices, inputs, every=64)
    assert abs(expected[-1].real.mean() - growth) < 20
    states = goom.linear_scan(matrices, inputs, backend=backend)
    kept = jax.tree.map(lambda x: x[63::64], states)
    assert log_error(kept, expected) < 1e-4
    linear = np.asarray(from_goom(states))[-1]
    assert not np.isfinite(linear).any() if growth > 0 else (linear == 0).all()


@each_backend
def test_a_sequence_may_be_cut_anywhere(backend: goom.Backend) -> None:
    matrices, inputs = random_recurrence(6, 300.0, "complex64")
    whole = logs(goom.linear_scan(matrices, inputs))
    for cut in (2, 5) if backend == "sequential" else (3,):
        state = goom.linear_scan(matrices[:cut], inputs[:cut], backend=backend, output="last")
        rest = goom.linear_scan(matrices[cut:], inputs[cut:], state, backend=backend)
        assert log_error(rest, whole[cut:]) < 1e-5


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("sequential", "float64"), ("associative", "complex128")],
)
def test_scan_gradients_are_those_of_the_linear_scan_also_at_zero(backend, dtype: str) -> None:
    """The derivative of the loop along random directions, with zeros in every argument."""
    args = [normal(5, 2, 2, dtype=dtype), normal(5, 2, dtype=dtype), normal(2, dtype=dtype)]
    args[0][1:4, 0] = 0.0
    args[1][:4] = 0.0
    args[2][0] = 0.0
    weights = normal(5, 2, seed=9, dtype=dtype)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1, 2))
    def slopes(*args):
        states = from_goom(goom.linear_scan(*args, backend=backend))
        return jnp.sum(weights * states).real

    with jax.enable_x64():
        gradients = [np.asarray(g) for g in slopes(*args)]
    for i, (x, slope) in enumerate(zip(args, gradients, strict=True)):
        direction = normal(*x.shape, seed=20, dtype=dtype)
        ahead, behind = (
            reference.linear_recurrence(*args[:i], x + sign * 1e-5 * direction, *args[i + 1 :])
            for sign in (1, -1)
        )
        change = np.sum(weights * (ahead - behind)).real / 2e-5
        np.testing.assert_allclose((slope * direction).sum().real, change, rtol=1e-7, atol=1e-8)


def test_gradients_at_zero_are_finite_and_those_of_arithmetic() -> None:
    def compute(x, y):
        a, b = to_goom(x), to_goom(y)
        return jnp.sum(from_goom(goom.add(goom.multiply(a, b), a)))

    d_x, d_y = jax.jit(jax.grad(compute, argnums=(0, 1)))(
        jnp.array([0.0, 0.0, 1e-30]), jnp.array([0.0, 2.0, 3.0])
    )
    np.testing.assert_allclose(d_x, [1.0, 3.0, 4.0], rtol=1e-6)
    np.testing.assert_allclose(d_y, [0.0, 0.0, 1e-30], rtol=1e-6)
    in_log = jax.jit(jax.grad(lambda x: goom.to_log(to_goom(x)).real.sum()))(jnp.array([0.0, 4.0]))
    np.testing.assert_allclose(in_log, [0.0, 0.25], rtol=1e-6)
    from_log = jax.jit(jax.grad(lambda x: from_goom(goom.from_log(x)).sum()))(
        jnp.array([-jnp.inf, 1.0])
    )
    np.testing.assert_allclose(from_log, [0.0, np.e], rtol=1e-6)


@each_backend
def test_gradients_of_a_logarithm_beyond_float_range_are_right(backend: goom.Backend) -> None:
    """d log|s_T| / d log M_t is 1 for a product of positive scalars, however large."""
    matrices, initial = jnp.full((4, 1, 1), 1e30), jnp.ones(1)

    def magnitude(matrices):
        last = goom.linear_scan(
            matrices, jnp.zeros((4, 1)), initial, backend=backend, output="last"
        )
        return goom.to_log(last).real.sum()

    value, slope = jax.jit(jax.value_and_grad(magnitude))(matrices)
    np.testing.assert_allclose(value, 4 * np.log(1e30), rtol=1e-6)
    np.testing.assert_allclose(slope * matrices, 1.0, rtol=1e-5)


M, B = jnp.zeros((2, 7, 3, 3)), jnp.zeros((2, 7, 3))


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((M, B[..., :2]), {}, r"transition \(2, 7, 3, 3\) does not fit inputs \(2, 7, 2\)"),
        ((M[:, :6], B), {}, r"transition \(2, 6, 3, 3\) does not fit inputs \(2, 7, 3\)"),
        ((M, B, B[:, 0, :2]), {}, r"initial has shape \(2, 2\); expected \(2, 3\)"),
        ((M, B), {"backend": "auto"}, r"backend is 'auto'; choose one of \('sequential', 'assoc"),
        ((M, B), {"output": "first"}, r"output is 'first'; choose one of \('all', 'last'\)"),
    ],
)
def test_bad_arguments_are_named(args: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        goom.linear_scan(*args, **options)
