"""Laws of linear recurrences, on random shapes and numbers."""

from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from common.kernels import linear_scan
from common.kernels.cases import ScanCase, dense_arguments, random_array
from common.kernels.scan_associative import compose

STATES = 2
LANES = 3
settings.register_profile("scan", max_examples=15, deadline=None, derandomize=True)
settings.load_profile("scan")

seeds = st.integers(0, 2**31)
steps = st.sampled_from([1, 2, 6])
each_backend = pytest.mark.parametrize("backend", ["sequential", "associative", "chunked"])
scan: Any = jax.jit(
    linear_scan,
    static_argnames=("backend", "reverse", "output"),
    compiler_options={"xla_backend_optimization_level": 0},
)


def arguments(length: int, seed: int) -> Any:
    return dense_arguments(ScanCase("", length, (LANES,), STATES, "float32", True), seed)


def close(actual: Any, expected: Any) -> None:
    expected = np.asarray(expected)
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * scale)


@given(seeds)
def test_composition_is_associative(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = ((LANES, STATES, STATES), (LANES, STATES))
    maps = [tuple(random_array(rng, s, "float32") for s in shapes) for _ in range(3)]
    left = compose(compose(maps[0], maps[1]), maps[2])
    right = compose(maps[0], compose(maps[1], maps[2]))
    jax.tree.map(close, left, right)


@each_backend
@given(steps, seeds)
def test_scan_is_linear_in_inputs_and_initial_state(backend: Any, length: int, seed: int) -> None:
    matrices, inputs, initial = arguments(length, seed)
    _, others, start = arguments(length, seed + 1)
    first = scan(matrices, inputs, initial, backend=backend)
    second = scan(matrices, others, start, backend=backend)
    mixed = scan(matrices, 2 * inputs - others, 2 * initial - start, backend=backend)
    close(mixed, 2 * first - second)


@each_backend
@given(steps, seeds)
def test_steps_without_input_delay_the_states(backend: Any, length: int, seed: int) -> None:
    matrices, inputs, _ = arguments(length, seed)
    states = scan(matrices, inputs, backend=backend)
    late = jnp.pad(inputs, ((0, 0), (2, 0), (0, 0)))
    more = jnp.concatenate([matrices[:, :1], matrices[:, :1], matrices], 1)
    close(scan(more, late, backend=backend)[:, 2:], states)


@each_backend
@given(st.integers(0, 4), seeds)
def test_cut_anywhere_gives_the_same_states(backend: Any, cut: int, seed: int) -> None:
    matrices, inputs, initial = arguments(4, seed)
    whole = scan(matrices, inputs, initial, backend=backend)
    state = scan(matrices[:, :cut], inputs[:, :cut], initial, backend=backend, output="last")
    rest = scan(matrices[:, cut:], inputs[:, cut:], state, backend=backend)
    close(rest, whole[:, cut:])


@each_backend
@given(steps, seeds)
def test_reverse_is_the_scan_of_the_mirrored_sequence(backend: Any, length: int, seed: int) -> None:
    matrices, inputs, initial = arguments(length, seed)
    mirrored = scan(matrices[:, ::-1], inputs[:, ::-1], initial, backend=backend)
    close(scan(matrices, inputs, initial, backend=backend, reverse=True), mirrored[:, ::-1])
