"""What the generated loops do besides the suite of all back ends: sizes, repeats, derivatives."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.kernels import CoupledTransition, GatedInput, linear_scan
from common.kernels.cases import ScanCase, coupled_arguments, dense_arguments, random_array
from common.kernels.native import foreign

fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SIZES = [
    ScanCase("one_channel", 3, (2, 3, 1), 3, "complex64"),
    ScanCase("tails_of_all_widths", 3, (2, 3, 31), 3, "complex64", initial=True),
    ScanCase("two_vectors_and_a_tail", 5, (3, 21), 2, "complex64", structure="mutual"),
    ScanCase("real_with_a_tail", 4, (2, 3, 19), 1, structure="local"),
    ScanCase("one_chunk", 64, (2, 3), 3, "complex64", output="last", gain=0.9),
    ScanCase("a_chunk_and_a_step", 65, (2, 3), 3, "complex64", output="last", gain=0.9),
    ScanCase("three_chunks_reverse", 150, (2, 3), 3, "complex64", True, True, "last", gain=0.9),
    ScanCase("constant_drive_in_chunks", 70, (2, 3), 3, "complex64", constant_drive=True, gain=0.8),
    ScanCase("several_tiles_last", 3, (70, 5, 8), 3, "complex64", output="last"),
    ScanCase("several_tiles_double", 3, (70, 3, 8), 3, "complex128"),
]


def with_gradients(args: Any, backend: Any, case: ScanCase) -> Any:
    options: dict[str, Any] = {"reverse": case.reverse, "output": case.output}

    @fast_jit
    def run(args):
        states, pullback = jax.vjp(lambda a: linear_scan(*a, backend=backend, **options), args)
        rng = np.random.default_rng(1)
        weights = (random_array(rng, s.shape, str(s.dtype)) for s in states)
        return states, pullback(tuple(map(jnp.asarray, weights)))

    return run(args)


def assert_same(ours: Any, theirs: Any, tolerance: float) -> None:
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert mine.shape == other.shape and mine.dtype == other.dtype
        assert np.abs(mine - other).max() <= tolerance * np.abs(other).max()


@pytest.mark.parametrize("case", SIZES, ids=lambda case: case.name)
def test_states_and_gradients_equal_those_of_the_sequential_scan(case: ScanCase) -> None:
    with jax.enable_x64(case.dtype == "complex128"):
        args = coupled_arguments(case)
        ours, theirs = (with_gradients(args, b, case) for b in ("native", "sequential"))
        assert_same(ours, theirs, 1e-13 if case.dtype == "complex128" else 5e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 1), (2, 1, 1), (2, 3, 1)])
def test_gates_that_several_rows_share_get_the_sum(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    gate = rng.uniform(0.2, 0.8, (4, *shape)).astype("float32")
    kappa, drive = (random_array(rng, s, "complex64") for s in ((3, 5), (4, 2, 3, 5)))
    args = (CoupledTransition(((gate,),), ((gate,),), kappa), (GatedInput(gate, drive),))
    case = ScanCase("", 4, (2, 3, 5), 1)
    assert_same(*(with_gradients(args, b, case) for b in ("native", "sequential")), 2e-6)


def test_narrow_inputs_are_widened_to_the_states() -> None:
    transition, inputs, _ = coupled_arguments(ScanCase("", 3, (2, 4), 1, structure="local"))
    narrow = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (transition, inputs))
    (states,) = jax.jit(lambda a: linear_scan(*a, backend="native"))(narrow)
    (expected,) = jax.jit(lambda a: linear_scan(*a, backend="sequential"))(narrow)
    assert states.dtype == jnp.float32
    np.testing.assert_allclose(states, expected, rtol=1e-6)


def test_no_lanes_at_all_are_fine() -> None:
    args = coupled_arguments(ScanCase("", 3, (0, 4), 3, "complex64"))
    assert [s.shape for s in linear_scan(*args[:2], backend="native")] == [(3, 0, 4)] * 3


def test_mapped_scan_equals_one_after_the_other() -> None:
    transition, inputs, _ = coupled_arguments(ScanCase("", 3, (2, 4), 3, "complex64"))
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x]), inputs)

    def slope(inputs):
        loss = lambda x: sum(jnp.sum(jnp.abs(s) ** 2) for s in x)  # noqa: E731
        return jax.grad(lambda x: loss(linear_scan(transition, x, backend="native")))(inputs)

    expected = [slope(jax.tree.map(lambda x, i=i: x[i], many)) for i in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *expected)
    assert_same(jax.jit(jax.vmap(slope))(many), stacked, 1e-6)


@pytest.mark.parametrize("steps", [4, pytest.param(130, marks=pytest.mark.slow)])
def test_second_derivatives_in_forward_mode(steps: int) -> None:
    case = ScanCase("", steps, (2, 3), 3, "complex64", initial=True, gain=0.8)
    args = coupled_arguments(case)
    rng = np.random.default_rng(2)
    towards = jax.tree.map(lambda x: random_array(rng, x.shape, str(x.dtype)), args)

    def curvature(backend):
        def loss(args):
            return sum(jnp.sum(jnp.abs(s) ** 2) for s in linear_scan(*args, backend=backend))

        return fast_jit(lambda a, d: jax.jvp(jax.grad(loss), (a,), (d,))[1])(args, towards)

    assert_same(curvature("native"), curvature("sequential"), 1e-5)


def test_says_why_it_cannot() -> None:
    with pytest.raises(ValueError, match="'native' is not available: it takes coupled transitions"):
        linear_scan(*dense_arguments(ScanCase("", 3, (2,), 2))[:2], backend="native")
    transition, inputs, _ = coupled_arguments(ScanCase("", 3, (2, 4), 1, structure="local"))
    turning = jax.tree.map(lambda x: x + 0j, transition)
    with pytest.raises(ValueError, match="'native' is not available: it takes real gates"):
        linear_scan(turning, inputs, backend="native")


@pytest.mark.parametrize("version", [None, (1, 0)])
def test_another_interface_of_xla_leaves_it_out(
    version: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = coupled_arguments(ScanCase("", 3, (2, 4), 3, "complex64"))[:2]
    monkeypatch.setattr(foreign, "_interface_version", lambda: version)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="'native' is not available: it knows version 0 of"):
        linear_scan(*args, backend="native")
    assert "emit_forward" not in jax.jit(lambda a: linear_scan(*a)).lower(args).as_text()
