"""One suite for every back end of `linear_scan`, in its dense and in its coupled form."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from common.compiled import temporary_bytes
from common.kernels import (
    CoupledTransition,
    GatedInput,
    choose_backend,
    linear_scan,
    reference,
    scan_sequential,
)
from common.kernels.cases import (
    COUPLED_CASES,
    DENSE_CASES,
    ROW_SPECTRA,
    ScanCase,
    coupled_arguments,
    dense_arguments,
    random_array,
)
from common.kernels.scan import Backend
from common.kernels.scan_choice import native_code
from common.kernels.scan_pallas import interpreted_pallas

BACKENDS = [b for b in get_args(Backend) if b != "auto"]
DENSE_BACKENDS = [b for b in BACKENDS if b not in ("native", "pallas")]
TOLERANCE = {"float32": 4e-6, "complex64": 4e-6, "float64": 1e-13, "complex128": 1e-13}

FAST_COMPILE = {"xla_backend_optimization_level": 0}
fast_jit = functools.partial(jax.jit, compiler_options=FAST_COMPILE)
jitted_scan = fast_jit(linear_scan, static_argnames=("backend", "reverse", "output"))
CASES = DENSE_CASES + COUPLED_CASES


def takes(backend: str, case: ScanCase) -> bool:
    """Whether a back end takes a case; what becomes of the others is tested below."""
    if case in DENSE_CASES:
        return backend in DENSE_BACKENDS
    one_spectrum = case.structure not in ROW_SPECTRA
    return backend != "pallas" or (one_spectrum and case.dtype == "complex64")


LONG_IN_PALLAS = ("checkpointed_last", "no_lanes_reverse", "shared_gates", "sparse_reverse")
"""Cases that take its interpreter long."""


def pairs(cases: tuple[ScanCase, ...], backends: list) -> Any:
    """Parametrises over every back end and case that go together."""
    together = [
        pytest.param(
            case,
            backend,
            id=f"{case.name}-{backend}",
            marks=pytest.mark.slow if backend == "pallas" and case.name in LONG_IN_PALLAS else (),
        )
        for case in cases
        for backend in backends
        if takes(backend, case)
    ]
    return pytest.mark.parametrize(("case", "backend"), together)


each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_dense_backend = pytest.mark.parametrize("backend", DENSE_BACKENDS)


@pytest.fixture(autouse=True)
def pallas_interpreted() -> Iterator[None]:
    with interpreted_pallas():
        yield


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

    @fast_jit
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


@pairs(DENSE_CASES, BACKENDS)
def test_dense_states_equal_the_loop(case: ScanCase, backend: Backend) -> None:
    states, _ = solve(case, backend)
    assert states.dtype == case.dtype
    assert worst(states, expected_states(case)) < TOLERANCE[case.dtype]


@pairs(COUPLED_CASES, BACKENDS)
def test_coupled_states_equal_the_loop(case: ScanCase, backend: Backend) -> None:
    states, _ = solve(case, backend)
    assert states.dtype == case.dtype
    assert worst(states, expected_states(case)) < TOLERANCE[case.dtype]


@pairs(DENSE_CASES, BACKENDS)
def test_dense_gradients_equal_finite_differences(case: ScanCase, backend: Backend) -> None:
    check_gradients(case, solve(case, backend)[1])


@pairs(COUPLED_CASES, BACKENDS)
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


@pairs(CASES, [b for b in BACKENDS if b != "sequential"])
def test_gradients_equal_those_of_the_sequential_scan(case: ScanCase, backend: Backend) -> None:
    ours, theirs = (jax.tree.leaves(solve(case, b)[1]) for b in (backend, "sequential"))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        assert worst(mine, other) < 5 * TOLERANCE[case.dtype]


@pytest.mark.parametrize(
    "case", [c for c in CASES if np.prod(c.batch) > 1 and c.steps > 1], ids=lambda c: c.name
)
def test_lanes_in_tiles_give_the_same_numbers(
    case: ScanCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = solve(case, "sequential")
    monkeypatch.setattr(scan_sequential, "TILE_BYTES", 1)
    tiled = solve.__wrapped__(case, "sequential")
    for mine, other in zip(jax.tree.leaves(tiled), jax.tree.leaves(whole), strict=True):
        assert worst(mine, other) < TOLERANCE[case.dtype]


def dense(backend: Backend, matrices: Any, inputs: Any, initial: Any = None, **options) -> Any:
    arrays = [None if x is None else np.asarray(x, np.float32) for x in (matrices, inputs, initial)]
    return np.asarray(jitted_scan(*arrays, backend=backend, **options))


@each_dense_backend
def test_constant_decay_gives_the_geometric_series(backend: Backend) -> None:
    matrices = np.broadcast_to(np.diag([0.5, -0.25]), (6, 2, 2))
    states = dense(backend, matrices, np.ones((6, 2)))
    t = np.arange(1, 7)
    expected = np.stack([(1 - 0.5**t) / 0.5, (1 - (-0.25) ** t) / 1.25], -1)
    np.testing.assert_allclose(states, expected, rtol=1e-6)


@each_dense_backend
def test_identity_transition_sums_up(backend: Backend) -> None:
    matrices = np.broadcast_to(np.eye(2), (6, 2, 2))
    inputs, initial = np.arange(12.0).reshape(6, 2), np.array([100.0, -100.0])
    forward = dense(backend, matrices, inputs, initial)
    np.testing.assert_array_equal(forward, initial + inputs.cumsum(0))
    backward = dense(backend, matrices, inputs, initial, reverse=True)
    np.testing.assert_array_equal(backward, initial + inputs[::-1].cumsum(0)[::-1])


@each_dense_backend
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


@each_dense_backend
def test_eager_and_mapped_scans_equal_a_batch(backend: Backend) -> None:
    matrices, inputs, _ = dense_arguments(ScanCase("", 3, (4,), 2))
    scan: Callable[..., Any] = functools.partial(linear_scan, backend=backend)
    expected = reference.linear_recurrence(matrices, inputs)
    if backend == "sequential":  # the others are hundreds of small compilations
        assert worst(scan(matrices, inputs), expected) < TOLERANCE["float32"]
    assert worst(fast_jit(jax.vmap(scan))(matrices, inputs), expected) < TOLERANCE["float32"]


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@each_backend
def test_a_sequence_cut_in_two_gives_the_same_states(backend: Backend, reverse: bool) -> None:
    case = ScanCase("", 5, (2, 3), 3, "complex64", initial=True)
    transition, inputs, initial = coupled_arguments(case)
    options: dict[str, Any] = {"backend": backend, "reverse": reverse}

    def part(span, state, **more):
        gates, drives = jax.tree.map(lambda x: x[span], (transition[:2], inputs))
        part_of = CoupledTransition(*gates, transition.spectrum)
        return jnp.stack(linear_scan(part_of, drives, state, **options, **more))

    @fast_jit
    def run():
        first, second = (slice(2, None), slice(2)) if reverse else (slice(2), slice(2, None))
        states = [part(first, initial), part(second, tuple(part(first, initial, output="last")))]
        whole = part(slice(None), initial)
        return whole, jnp.concatenate(states[::-1] if reverse else states, 1)

    whole, joined = run()
    np.testing.assert_allclose(joined, whole, rtol=2e-5, atol=2e-6)


@each_backend
def test_no_steps_leave_the_initial_state(backend: Backend) -> None:
    case = ScanCase("", 0, (2, 3), 3, "complex64", initial=True)
    transition, inputs, initial = coupled_arguments(case)
    states = linear_scan(transition, inputs, initial, backend=backend)
    assert [(s.shape, s.dtype) for s in states] == [((0, 2, 3), np.complex64)] * 3
    last = linear_scan(transition, inputs, initial, backend=backend, output="last")
    np.testing.assert_array_equal(np.stack(last), np.stack(initial))
    matrices, offsets, start = dense_arguments(ScanCase("", 0, (2,), 3, initial=True))
    assert linear_scan(matrices, offsets, start, backend=backend).shape == (2, 0, 3)
    last = linear_scan(matrices, offsets, start, backend=backend, output="last")
    np.testing.assert_array_equal(last, start)


@pytest.mark.parametrize(
    "backend", ["sequential", "native", pytest.param("pallas", marks=pytest.mark.slow)]
)
def test_remat_leaves_the_gradients_as_they_are(backend: Backend) -> None:
    transition, inputs, _ = coupled_arguments(ScanCase("", 4, (2, 3), 3, "complex64"))

    def loss(transition, inputs):
        states = linear_scan(transition, inputs, backend=backend)
        return sum(jnp.sum(jnp.abs(s) ** 2) for s in states)

    plain = fast_jit(jax.grad(loss, argnums=(0, 1)))(transition, inputs)
    again = fast_jit(jax.grad(jax.checkpoint(loss), argnums=(0, 1)))(transition, inputs)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), plain, again)


@pytest.mark.parametrize("backend", ["sequential", "associative", "chunked", "native"])
def test_scan_within_shard_map_equals_the_scan(backend: Backend) -> None:
    """The batch lies on four devices; the spectrum, and so its cotangent, belongs to all."""
    case = ScanCase("", 5, (4, 3), 3, "complex64")
    transition, inputs, _ = coupled_arguments(case)
    transition = transition._replace(spectrum=transition.spectrum[0])
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("data",))

    def scan(transition, inputs):
        return linear_scan(transition, inputs, backend=backend)

    on_batch = P(None, "data")
    specs = (CoupledTransition(on_batch, on_batch, P()), on_batch)
    sharded = jax.shard_map(scan, mesh=mesh, in_specs=specs, out_specs=on_batch)

    def with_gradients(scan):
        states, pullback = jax.vjp(scan, transition, inputs)
        return states, pullback(states)

    ours, alone = (fast_jit(lambda f=f: with_gradients(f))() for f in (sharded, scan))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), ours, alone)


def test_gate_in_two_places_gets_the_sum_of_both_cotangents() -> None:
    transition, inputs, _ = coupled_arguments(ScanCase("", 4, (2, 3), 3, "complex64"))
    local, coupled, spectrum = transition

    def loss(first, second):
        rows = (*local[:2], (first, second, local[2][2]))
        states = linear_scan(CoupledTransition(rows, coupled, spectrum), inputs)
        return sum(jnp.sum(jnp.abs(s) ** 2) for s in states)

    gate = jnp.asarray(local[2][0])
    together = jax.grad(lambda g: loss(g, g))(gate)
    apart = sum(jax.grad(loss, argnums=(0, 1))(gate, gate + 0))
    np.testing.assert_allclose(together, apart, rtol=1e-5)


def test_sequential_scan_has_second_derivatives() -> None:
    matrices, inputs, _ = dense_arguments(ScanCase("", 4, (), 2))

    def loss(inputs):
        return jnp.sum(linear_scan(matrices, inputs, backend="sequential") ** 2)

    hessian = jax.jacrev(jax.grad(loss))(inputs).reshape(8, 8)
    units = np.eye(8).reshape(8, 4, 2)
    states = np.stack([reference.linear_recurrence(matrices, x).ravel() for x in units])
    np.testing.assert_allclose(hessian, 2 * states @ states.T, rtol=1e-4, atol=1e-4)


def test_long_scan_has_second_derivatives_in_forward_mode() -> None:
    matrices, inputs, _ = dense_arguments(ScanCase("", 130, (), 2, gain=0.9))
    direction = random_array(np.random.default_rng(2), inputs.shape, "float32")

    @fast_jit
    def curvature(inputs, direction):
        loss = lambda x: jnp.sum(linear_scan(matrices, x, backend="sequential") ** 2)  # noqa: E731
        return jax.jvp(jax.grad(loss), (inputs,), (direction,))[1]

    along = reference.linear_recurrence(matrices, direction)
    change = np.sum(reference.widen(curvature(inputs, direction)) * direction)
    np.testing.assert_allclose(change, 2 * np.sum(along**2), rtol=1e-5)


def test_last_state_alone_is_not_stored_with_the_others() -> None:
    case = ScanCase("", 64, (8, 16, 16), 3, "complex64", constant_drive=True)
    args = coupled_arguments(case)

    def temporary(output: str) -> int:
        compiled = jitted_scan.lower(*args, output=output).compile()
        memory = compiled.memory_analysis()
        return memory.temp_size_in_bytes + memory.output_size_in_bytes

    assert temporary("last") < temporary("all") / 8


def test_long_scans_recompute_their_states() -> None:
    case = ScanCase("", 1024, (8, 16), 3, "complex64", output="last", constant_drive=True)
    args = coupled_arguments(case)
    grad = jax.grad(lambda a: sum(jnp.sum(jnp.abs(s)) for s in linear_scan(*a, output="last")))
    states = 3 * 1024 * 8 * 16 * 8
    assert temporary_bytes(jax.jit(grad).lower(args).compile()) < states / 4


def test_auto_says_what_it_takes_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    for steps in (1, 8, 10_000):
        choice = choose_backend(steps, platform="cpu")
        assert choice.backend == "sequential", "with several devices"
        assert "CPU" in choice.reason
    assert choose_backend(8, platform="gpu").backend == "sequential"
    assert choose_backend(4096, platform="gpu").backend == "chunked"
    assert choose_backend(4096, platform="tpu") == choose_backend(4096, platform="gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert choose_backend(8, platform="cpu").backend == "native"
    assert choose_backend(8, platform="cpu", shared_gates=False).backend == "sequential"
    with native_code(allowed=False):
        assert choose_backend(8, platform="cpu").backend == "sequential"


def test_auto_takes_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = coupled_arguments(ScanCase("", 3, (2, 4), 3, "complex64"))
    own = coupled_arguments(ScanCase("", 3, (4,), 3, "complex64"))  # gates for each channel
    for devices, args, backend in [
        (4, shared, "sequential"),
        (1, shared, "native"),
        (1, own, "sequential"),
    ]:
        monkeypatch.setattr(jax, "device_count", lambda n=devices: n)
        scan = fast_jit(lambda *args: linear_scan(*args))
        assert ("emit_forward" in scan.lower(*args).as_text()) == (backend == "native")
        np.testing.assert_array_equal(scan(*args), jitted_scan(*args, backend=backend))


def test_pallas_says_why_it_cannot() -> None:
    args = coupled_arguments(ScanCase("", 2, (2, 3), 3, "complex64"))
    with pytest.raises(ValueError, match="'pallas' is not available: it takes coupled transitions"):
        linear_scan(M, B, backend="pallas")
    with jax.enable_x64(True), pytest.raises(ValueError, match="complex64, not in complex128"):
        double = coupled_arguments(ScanCase("", 2, (2, 3), 3, "complex128"))
        linear_scan(*double, backend="pallas")
    two_spectra = coupled_arguments(ScanCase("", 2, (2, 3), 2, "complex64", structure="mutual"))
    with pytest.raises(ValueError, match="'pallas' is not available: it takes one spectrum"):
        linear_scan(*two_spectra, backend="pallas")
    with interpreted_pallas(False), pytest.raises(ValueError, match="needs a GPU, and .* 'cpu'"):
        linear_scan(*args, backend="pallas")


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
        ((ONE._replace(spectrum=(D[0], D[0])), (D,)), {}, "1 rows need as many spectra; got 2"),
        ((ONE._replace(spectrum=(None,)), (D,)), {}, "row 0 has coupled entries but no spectrum"),
        ((ONE._replace(local=((G[:6],),)), (D,)), {}, r"7 leading time steps; got \[\(6, 2\)\]"),
    ],
)
def test_bad_arguments_are_named(args: tuple, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_scan(*args, **options)


@each_dense_backend
def test_bfloat16_is_accumulated_in_float32(backend: str) -> None:
    rng = np.random.default_rng(0)
    matrices = jnp.asarray(rng.uniform(0.4, 0.6, (3, 64, 2, 2)), jnp.bfloat16)
    inputs = jnp.asarray(rng.normal(size=(3, 64, 2)), jnp.bfloat16)
    states = jitted_scan(matrices, inputs, backend=backend)
    exact = jitted_scan(matrices.astype(jnp.float32), inputs.astype(jnp.float32), backend=backend)
    assert states.dtype == jnp.float32
    np.testing.assert_allclose(states, exact, rtol=1e-6)


@each_backend
def test_bfloat16_gates_act_in_float32(backend: Backend) -> None:
    case = ScanCase("", 5, (2, 3), 3, "complex64")
    transition, inputs, _ = coupled_arguments(case)

    def narrow(x: Any, back: bool) -> Any:
        if np.iscomplexobj(x):
            return x
        narrow = jnp.asarray(x, jnp.bfloat16)
        return narrow.astype(jnp.float32) if back else narrow

    narrowed, exact = (
        jax.tree.map(functools.partial(narrow, back=back), (transition, inputs))
        for back in (False, True)
    )
    states = jnp.stack(jitted_scan(*narrowed, backend=backend))
    assert states.dtype == jnp.complex64
    assert worst(states, jnp.stack(jitted_scan(*exact, backend=backend))) < 1e-6


@each_dense_backend
def test_complex_initial_state_of_a_real_recurrence_is_kept(backend: str) -> None:
    initial = jnp.full((5, 3), 1.0 + 2.0j, jnp.complex64)
    identity = jnp.broadcast_to(jnp.eye(3), (5, 7, 3, 3))
    states = linear_scan(identity, jnp.zeros((5, 7, 3)), initial, backend=backend)
    np.testing.assert_array_equal(states[:, -1], initial)
