"""One suite for every back end of `linear_scan`, in its dense and in its coupled form."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.kernels import CoupledTransition, GatedInput, choose_backend, linear_scan, reference
from common.kernels.cases import (
    COUPLED_CASES,
    DENSE_CASES,
    ScanCase,
    coupled_arguments,
    dense_arguments,
    random_array,
)
from common.kernels.scan import Backend

BACKENDS = [b for b in get_args(Backend) if b != "auto"]
OTHERS = [b for b in BACKENDS if b != "sequential"]
TOLERANCE = {"float32": 4e-6, "complex64": 4e-6, "float64": 1e-13, "complex128": 1e-13}

jitted_scan = jax.jit(linear_scan, static_argnames=("backend", "reverse", "output"))
each_backend = pytest.mark.parametrize("backend", BACKENDS)
other_backend = pytest.mark.parametrize("backend", OTHERS)
dense_case = pytest.mark.parametrize("case", DENSE_CASES, ids=lambda c: c.name)
coupled_case = pytest.mark.parametrize("case", COUPLED_CASES, ids=lambda c: c.name)


@contextlib.contextmanager
def precision_of(case: ScanCase) -> Iterator[None]:
    with jax.enable_x64(case.dtype in ("float64", "complex128")):
        yield


@functools.cache
def arguments(case: ScanCase) -> Any:
    return (dense_arguments if case in DENSE_CASES else coupled_arguments)(case, seed=3)


@functools.cache
def expected_states(case: ScanCase) -> np.ndarray:
    return reference_states(case, arguments(case))


def reference_states(case: ScanCase, args: Any) -> np.ndarray:
    """States of a case as one array, the time axis left out where the last is asked for."""
    transition, inputs, initial = args
    reverse = case.reverse
    if isinstance(transition, CoupledTransition):
        pairs = [(x.gate, x.drive) if isinstance(x, GatedInput) else (None, x) for x in inputs]
        states = reference.coupled_recurrence(*transition, pairs, initial, reverse=reverse)
    else:
        states = reference.linear_recurrence(transition, inputs, initial, reverse=reverse)
        states = np.moveaxis(states, -2, 0)[None]
    if case.output == "last":
        states = states[:, 0 if reverse else -1]
    return states


@functools.cache
def cotangent(case: ScanCase) -> np.ndarray:
    """Random weights of the states, so that no two of their errors cancel."""
    dtype = "complex128" if "complex" in case.dtype else "float64"
    return random_array(np.random.default_rng(5), expected_states(case).shape, dtype)


@functools.cache
def solve(case: ScanCase, backend: Backend) -> tuple[np.ndarray, Any]:
    """Runs forward and backward once; returns states and gradients."""

    @jax.jit
    def run(args, weights):
        states, pullback = jax.vjp(lambda args: stacked_scan(case, backend, args), args)
        return states, pullback(weights.astype(states.dtype))

    with precision_of(case):
        states, (gradients,) = run(arguments(case), cotangent(case))
        return jax.tree.map(np.asarray, (states, gradients))


def stacked_scan(case: ScanCase, backend: Backend, args: Any) -> jax.Array:
    states = linear_scan(*args, backend=backend, reverse=case.reverse, output=case.output)
    if isinstance(states, tuple):
        return jnp.stack(states)
    return (jnp.moveaxis(states, -2, 0) if case.output == "all" else states)[None]


def worst(actual: Any, expected: Any) -> float:
    """Largest difference, relative to the largest value of that array."""
    actual, expected = reference.widen(actual), reference.widen(expected)
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@each_backend
@dense_case
def test_dense_states_equal_the_loop(case: ScanCase, backend: Backend) -> None:
    states, _ = solve(case, backend)
    assert states.dtype == case.dtype
    assert worst(states, expected_states(case)) < TOLERANCE[case.dtype]


@each_backend
@coupled_case
def test_coupled_states_equal_the_loop(case: ScanCase, backend: Backend) -> None:
    states, _ = solve(case, backend)
    assert states.dtype == case.dtype
    assert worst(states, expected_states(case)) < TOLERANCE[case.dtype]


@each_backend
@dense_case
def test_dense_gradients_equal_finite_differences(case: ScanCase, backend: Backend) -> None:
    check_gradients(case, solve(case, backend)[1])


@each_backend
@coupled_case
def test_coupled_gradients_equal_finite_differences(case: ScanCase, backend: Backend) -> None:
    check_gradients(case, solve(case, backend)[1])


def check_gradients(case: ScanCase, gradients: Any) -> None:
    """Compares each gradient with the change of the NumPy loop along random directions.

    The objective is Re(sum(weights * states)). For it the backward pass returns g with
    change = Re(sum(g * direction)).
    """
    leaves, tree = jax.tree.flatten(arguments(case))
    slopes = jax.tree.leaves(gradients)
    assert [x.shape for x in slopes] == [x.shape for x in leaves]

    def objective(position: int, moved: np.ndarray) -> float:
        args = jax.tree.unflatten(tree, leaves[:position] + [moved] + leaves[position + 1 :])
        return float(np.sum(cotangent(case) * reference_states(case, args)).real)

    rng = np.random.default_rng(7)
    step = 1e-5
    for i, (leaf, slope) in enumerate(zip(leaves, slopes, strict=True)):
        direction = reference.widen(random_array(rng, leaf.shape, str(leaf.dtype)))
        products = (slope * direction).real
        ahead = objective(i, reference.widen(leaf) + step * direction)
        behind = objective(i, reference.widen(leaf) - step * direction)
        error = abs((ahead - behind) / (2 * step) - products.sum())
        assert error < 1e-5 * np.abs(slope * direction).sum(), f"argument {i} {leaf.shape}"


@other_backend
@pytest.mark.parametrize("case", DENSE_CASES + COUPLED_CASES, ids=lambda c: c.name)
def test_gradients_equal_those_of_the_sequential_scan(case: ScanCase, backend: Backend) -> None:
    ours, theirs = (jax.tree.leaves(solve(case, b)[1]) for b in (backend, "sequential"))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        assert worst(mine, other) < 5 * TOLERANCE[case.dtype]


def dense(backend: Backend, matrices: Any, inputs: Any, initial: Any = None, **options) -> Any:
    arrays = [None if x is None else np.asarray(x, np.float32) for x in (matrices, inputs, initial)]
    return np.asarray(jitted_scan(*arrays, backend=backend, **options))


@each_backend
def test_constant_decay_gives_the_geometric_series(backend: Backend) -> None:
    matrices = np.broadcast_to(np.diag([0.5, -0.25]), (6, 2, 2))
    states = dense(backend, matrices, np.ones((6, 2)))
    t = np.arange(1, 7)
    expected = np.stack([(1 - 0.5**t) / 0.5, (1 - (-0.25) ** t) / 1.25], -1)
    np.testing.assert_allclose(states, expected, rtol=1e-6)


@each_backend
def test_identity_transition_sums_up(backend: Backend) -> None:
    matrices = np.broadcast_to(np.eye(2), (6, 2, 2))
    inputs, initial = np.arange(12.0).reshape(6, 2), np.array([100.0, -100.0])
    forward = dense(backend, matrices, inputs, initial)
    np.testing.assert_array_equal(forward, initial + inputs.cumsum(0))
    backward = dense(backend, matrices, inputs, initial, reverse=True)
    np.testing.assert_array_equal(backward, initial + inputs[::-1].cumsum(0)[::-1])


@each_backend
def test_matrices_act_from_the_left_in_order_of_time(backend: Backend) -> None:
    matrices = np.random.default_rng(0).integers(-2, 3, (6, 2, 2)).astype(float)
    product = np.linalg.multi_dot(matrices[::-1])
    assert not np.array_equal(product, np.linalg.multi_dot(matrices)), "they must not commute"
    for column, start in zip(product.T, np.eye(2), strict=True):
        states = dense(backend, matrices, np.zeros((6, 2)), start)
        np.testing.assert_array_equal(states[-1], column)


@each_backend
def test_coupled_scan_is_a_product_of_gates_and_powers_of_the_spectrum(backend: Backend) -> None:
    spectrum = jnp.array([0.5j, -1.0 + 0.5j])
    gates = jnp.linspace(0.2, 1.0, 12).reshape(6, 2)
    drive = np.zeros((6, 2), np.complex64)
    transition = CoupledTransition(((None,),), ((gates,),), spectrum)
    start = (np.ones(2, np.complex64),)
    (states,) = jitted_scan(transition, (drive,), start, backend=backend)
    powers = spectrum[None] ** np.arange(1, 7)[:, None]
    np.testing.assert_allclose(states, gates.cumprod(0) * powers, rtol=1e-5)


@each_backend
def test_spectrum_of_fewer_axes_broadcasts(backend: Backend) -> None:
    case = ScanCase("", 3, (2, 3, 4), 3, "complex64")
    transition, inputs, _ = args = coupled_arguments(case)
    short = transition._replace(spectrum=transition.spectrum[0])
    states = jnp.stack(jitted_scan(short, inputs, backend=backend))
    assert worst(states, reference_states(case, args)) < TOLERANCE[case.dtype]


@each_backend
def test_eager_and_mapped_scans_equal_a_batch(backend: Backend) -> None:
    matrices, inputs, _ = dense_arguments(ScanCase("", 3, (4,), 2))
    scan: Callable[..., Any] = functools.partial(linear_scan, backend=backend)
    expected = reference.linear_recurrence(matrices, inputs)
    assert worst(scan(matrices, inputs), expected) < TOLERANCE["float32"]
    assert worst(jax.jit(jax.vmap(scan))(matrices, inputs), expected) < TOLERANCE["float32"]


def test_auto_takes_the_sequential_scan_on_a_cpu() -> None:
    assert choose_backend(8) == choose_backend(10_000) == "sequential"
    case = ScanCase("", 3, (2, 4), 3, "complex64")
    transition, inputs, _ = coupled_arguments(case)
    automatic = jitted_scan(transition, inputs)
    np.testing.assert_array_equal(automatic, jitted_scan(transition, inputs, backend="sequential"))


M, B = jnp.zeros((5, 7, 3, 3)), jnp.zeros((5, 7, 3))
G, D = jnp.zeros((7, 2)), jnp.zeros((7, 2), jnp.complex64)
ONE = CoupledTransition(((G,),), ((G,),), D[0])


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((M, B), {"backend": "magic"}, r"backend is 'magic'; choose one of .*'sequential'"),
        ((M, B), {"output": "first"}, r"output is 'first'; choose one of \('all', 'last'\)"),
        ((M, B[..., :2]), {}, r"\(5, 7, 3, 3\) does not fit inputs \(5, 7, 2\)"),
        ((M[..., :2], B), {}, r"\(5, 7, 3, 2\) does not fit inputs \(5, 7, 3\)"),
        ((M[:, :6], B), {}, r"\(5, 6, 3, 3\) does not fit inputs \(5, 7, 3\)"),
        ((M[:3], B), {}, r"\(3, 7, 3, 3\) does not fit inputs \(5, 7, 3\)"),
        ((M, B, B[:, 0, :2]), {}, r"initial has shape \(5, 2\); expected \(5, 3\)"),
        ((ONE, (D, D)), {}, "1 states need as many inputs; got 2"),
        ((ONE, (D,), (D[0], D[0])), {}, "1 states need as many initial ones; got 2"),
        ((ONE, (D,), (D[0, :1],)), {}, r"initial has shape \(1,\); expected \(2,\)"),
        ((ONE, (D[:5],)), {}, r"7 leading time steps; got \[\(5, 2\)\]"),
        ((ONE, (GatedInput(G[:1], D),)), {}, r"7 leading time steps; got \[\(1, 2\)\]"),
        ((ONE._replace(local=((G[:6],),)), (D,)), {}, r"7 leading time steps; got \[\(6, 2\)\]"),
    ],
)
def test_bad_arguments_are_named(args: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_scan(*args, **options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_is_accumulated_in_float32(backend: str) -> None:
    rng = np.random.default_rng(0)
    matrices = jnp.asarray(rng.uniform(0.4, 0.6, (3, 64, 2, 2)), jnp.bfloat16)
    inputs = jnp.asarray(rng.normal(size=(3, 64, 2)), jnp.bfloat16)
    states = linear_scan(matrices, inputs, backend=backend)
    exact = linear_scan(matrices.astype(jnp.float32), inputs.astype(jnp.float32), backend=backend)
    assert states.dtype == jnp.float32
    np.testing.assert_allclose(states, exact, rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_complex_initial_state_of_a_real_recurrence_is_kept(backend: str) -> None:
    initial = jnp.full((5, 3), 1.0 + 2.0j, jnp.complex64)
    identity = jnp.broadcast_to(jnp.eye(3), (5, 7, 3, 3))
    states = linear_scan(identity, jnp.zeros((5, 7, 3)), initial, backend=backend)
    np.testing.assert_array_equal(states[:, -1], initial)
