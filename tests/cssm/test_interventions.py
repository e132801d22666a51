"""Interventions against the recurrence computed by hand from gates, spectra and inputs."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.analysis import capture, radial_frequencies
from cssm import SimpleCSSM
from cssm.interventions import (
    hold_gate,
    keep_frequencies,
    remove_frequencies,
    remove_state,
    skip_steps,
)

STEPS = 4
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def case(cssm_type: str = "transformer", depth: int = 1) -> tuple[Any, Any, Any]:
    model: Any = SimpleCSSM(
        embed_dim=6, kernel_size=3, seq_len=STEPS, cssm_type=cssm_type, depth=depth
    )
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, STEPS, 16, 20, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree.map(
        lambda s: 0.4 * rng.standard_normal(s.shape).astype(np.float32), shapes
    )
    return model, variables, x


def parts_of(cssm_type: str = "transformer") -> dict[str, Any]:
    """The intermediates; a function of its own each time, so that it is traced anew."""
    model, variables, x = case(cssm_type)
    return fast_jit(lambda v, x: capture(model, v, x)[1])(variables, x)


@functools.cache
def whole_states() -> np.ndarray:
    """The states with no intervention, (t, b, h, w, c, n)."""
    return np.asarray(parts_of()["cssm_0/states"])


def logits_of(depth: int = 1) -> Any:
    model, variables, x = case(depth=depth)
    return np.asarray(fast_jit(lambda v, x: model.apply(v, x))(variables, x))


def test_a_held_gate_has_one_value_and_the_rest_follows() -> None:
    whole = parts_of()
    with hold_gate("alpha", 0.25):
        held = parts_of()
    np.testing.assert_array_equal(held["cssm_0/gates/alpha"], 0.25)
    np.testing.assert_array_equal(held["cssm_0/gates/gamma"], whole["cssm_0/gates/gamma"])
    assert not np.allclose(held["cssm_0/states"], whole["cssm_0/states"], atol=1e-3)
    with hold_gate("decay_Q"):
        held = parts_of()
    mean = np.mean(whole["cssm_0/gates/decay_Q"])
    np.testing.assert_allclose(held["cssm_0/gates/decay_Q"], mean, rtol=1e-6)
    np.testing.assert_array_equal(parts_of()["cssm_0/states"], whole["cssm_0/states"])


@pytest.mark.parametrize("cssm_type", ["transformer", "hgru_bi"])
def test_a_removed_state_stays_zero_and_acts_on_no_other(cssm_type: str) -> None:
    """Without A, or with its feedback to Q held at zero, Q and K are the same."""
    for index in range(3):
        with remove_state(index):
            states = np.asarray(parts_of(cssm_type)["cssm_0/states"])
        np.testing.assert_allclose(states[..., index], 0.0, atol=1e-6)
        others = np.delete(states, index, -1)
        assert np.abs(others).max(axis=(0, 1, 2, 3, 4)).min() > 0.01
    if cssm_type == "transformer":
        with hold_gate("alpha", 0.0):
            deaf = np.asarray(parts_of()["cssm_0/states"])
        np.testing.assert_allclose(states[..., :2], deaf[..., :2], atol=1e-5)


def test_bands_add_up_and_are_empty_elsewhere() -> None:
    """The recurrence is linear, so that the states of two bands sum to those of the whole."""
    whole, split, total = whole_states(), 0.3, 0.0
    for low, high in ((0.0, split), (split, 1.0)):
        with keep_frequencies(low, high):
            states = np.asarray(parts_of()["cssm_0/states"])
        total = total + states
        radius = radial_frequencies(*states.shape[2:4])
        outside = (radius < low) | (radius >= high)
        spectra = np.fft.rfft2(states, axes=(2, 3))
        spectra = np.moveaxis(spectra, (2, 3), (0, 1))
        assert outside.any() and np.abs(spectra[outside]).max() < 1e-4 * np.abs(spectra).max()
    np.testing.assert_allclose(total, whole, atol=1e-4 * np.abs(whole).max())


def test_a_removed_band_is_what_is_left_beside_the_kept_one() -> None:
    whole = whole_states()
    with keep_frequencies(0.1, 0.3):
        kept = np.asarray(parts_of()["cssm_0/states"])
    with remove_frequencies(0.1, 0.3):
        rest = np.asarray(parts_of()["cssm_0/states"])
    assert min(np.abs(kept).max(), np.abs(rest).max()) > 0.01
    np.testing.assert_allclose(kept + rest, whole, atol=1e-4 * np.abs(whole).max())


def test_values_bands_and_steps_may_be_traced() -> None:
    model, variables, x = case()

    @fast_jit
    def traced(v: Any, x: Any, value: Any, low: Any, step: Any) -> Any:
        with hold_gate("alpha", value), remove_frequencies(low, 2 * low), skip_steps([0, step]):
            return model.apply(v, x)

    for value, low, step in ((0.25, 0.1, 2), (0.75, 0.2, 1)):
        with hold_gate("alpha", value), remove_frequencies(low, 2 * low), skip_steps([0, step]):
            expected = logits_of()
        found = traced(variables, x, value, low, step)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_skipped_steps_add_up() -> None:
    whole, total = whole_states(), 0.0
    for kept in range(STEPS):
        with skip_steps([step for step in range(STEPS) if step != kept]):
            states = np.asarray(parts_of()["cssm_0/states"])
        np.testing.assert_array_equal(states[:kept], 0.0)
        assert np.abs(states[kept]).max() > 0.01
        total = total + states
    np.testing.assert_allclose(total, whole, atol=1e-4 * np.abs(whole).max())


def test_one_block_of_several() -> None:
    plain = logits_of(depth=2)
    with keep_frequencies(0.0, 0.1, block="cssm_1"):
        second = logits_of(depth=2)
    with keep_frequencies(0.0, 0.1):
        both = logits_of(depth=2)
    with keep_frequencies(0.0, 0.1, block="cssm_0"), keep_frequencies(0.0, 0.1, block="cssm_1"):
        nested = logits_of(depth=2)
    np.testing.assert_allclose(both, nested, rtol=1e-6)
    for a, b in ((plain, second), (plain, both), (second, both)):
        assert np.abs(a - b).max() > 1e-5


def test_refusals() -> None:
    model, variables, x = case()

    def trace() -> None:
        jax.eval_shape(lambda v, x: model.apply(v, x), variables, x)

    with pytest.raises(ValueError, match="no gate 'beta' was met"), hold_gate("beta"):
        trace()
    with pytest.raises(ValueError, match="no spectral block"), skip_steps([0], "cssm_7"):
        trace()
    with pytest.raises(ValueError, match="cssm_0 has 3 states and none of index 3"):
        with remove_state(3):
            trace()
    with pytest.raises(ValueError, match="cssm_0 makes 4 steps and none of number 4"):
        with skip_steps([1, 4]):
            trace()
    with pytest.raises(ValueError, match="the band from 0.2 to 0.2 is empty"):
        keep_frequencies(0.2, 0.2)
    with pytest.raises(ValueError, match="the band from -1.0 to 0.2 is empty"):
        remove_frequencies(-1.0, 0.2)
    assert jnp.isfinite(logits_of()).all()
