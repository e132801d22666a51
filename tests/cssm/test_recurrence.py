"""The recurrence as it is read back, against itself done step by step in float64."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from common.analysis import capture
from cssm import SimpleCSSM
from cssm.gate_values import mean_parameter_gates
from cssm.interventions import hold_gate, skip_steps
from cssm.recurrence import impulse_responses, state_histories, state_names, transition_matrices

STEPS = 3
SIZE = (4, 5)
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def case(cssm_type: str, depth: int = 1) -> tuple[Any, Any, Any]:
    model: Any = SimpleCSSM(
        embed_dim=4, kernel_size=3, seq_len=STEPS, cssm_type=cssm_type, depth=depth
    )
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 16, 20, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = jax.tree.map(
        lambda s: 0.4 * rng.standard_normal(s.shape).astype(np.float32), shapes
    )
    return model, variables, x


@functools.cache
def seen(cssm_type: str) -> dict[str, Any]:
    """All there is to see where the image enters at the first step and half of all is read."""
    model, variables, x = case(cssm_type)

    def look(v, x):
        return {
            "read": capture(model, v, x)[1]["cssm_0/states"],
            "states": state_histories(model, v, x)["cssm_0"],
            "matrices": transition_matrices(model, v, x)["cssm_0"],
            "impulses": [
                impulse_responses(model, v, x, source)["cssm_0"]
                for source in range(len(state_names(model)["cssm_0"]))
            ],
        }

    with hold_gate("C_gate", 0.5), skip_steps(range(1, STEPS)):
        return jax.tree.map(np.asarray, fast_jit(look)(variables, x))


@pytest.mark.parametrize("cssm_type", ["transformer_stable", "transformer_read_q", "gated"])
def test_histories_are_what_is_read_before_the_gate(cssm_type: str) -> None:
    found = seen(cssm_type)
    count = found["read"].shape[-1]
    np.testing.assert_allclose(0.5 * found["states"][..., :count], found["read"], rtol=1e-5)
    assert np.abs(found["states"]).max(axis=(0, 1, 2, 3, 4)).min() > 0.01
    assert found["states"].shape[-1] == (1 if cssm_type == "gated" else 3)


@pytest.mark.parametrize("cssm_type", ["gdn", "no_fft"])
def test_histories_of_other_recurrences_are_what_is_read(cssm_type: str) -> None:
    model, variables, x = case(cssm_type)
    both = fast_jit(lambda v, x: (state_histories(model, v, x), capture(model, v, x)[1]))
    histories, captured = both(variables, x)
    np.testing.assert_array_equal(histories["cssm_0"], captured["cssm_0/states"])
    assert histories["cssm_0"].shape[:2] == (STEPS, 2)


def test_a_block_without_states_has_no_history() -> None:
    model, variables, x = case("spatial_attn")
    assert fast_jit(lambda v, x: state_histories(model, v, x))(variables, x) == {}


@pytest.mark.parametrize("cssm_type", ["transformer_stable", "transformer_read_q", "gated"])
def test_matrices_carry_each_state_to_the_next(cssm_type: str) -> None:
    """Without inputs; gates on zero horizontal frequency need not fit a real map, so not there."""
    found = seen(cssm_type)
    spectra = np.fft.rfft2(found["states"].astype(np.float64), axes=(2, 3))
    carried = np.einsum("tbhfcij,tbhfcj->tbhfci", found["matrices"][1:], spectra[:-1])
    assert np.abs(carried).max() > 0.1
    np.testing.assert_allclose(
        carried[:, :, :, 1:], spectra[1:, :, :, 1:], atol=1e-5 * np.abs(spectra).max()
    )


@pytest.mark.parametrize("cssm_type", ["transformer_stable", "transformer_read_q", "gated"])
def test_impulses_are_products_of_matrices(cssm_type: str) -> None:
    found = seen(cssm_type)
    matrices = found["matrices"].astype(np.complex128)
    impulse = np.zeros(SIZE)
    impulse[2, 2] = 1.0
    for source, response in enumerate(found["impulses"]):
        state = np.zeros(matrices.shape[1:-1], complex)
        state[..., source] = np.fft.rfft2(impulse)[..., None]
        for step in range(STEPS):
            state = np.einsum("bhfcij,bhfcj->bhfci", matrices[step], state)
            spectra = np.fft.rfft2(response[step], axes=(1, 2))
            np.testing.assert_allclose(
                spectra[:, :, 1:], state[:, :, 1:], atol=1e-5 * np.abs(state).max()
            )


def test_an_impulse_in_a_reaches_q_through_the_kernel_and_k_not_at_once() -> None:
    first = seen("transformer_read_q")["impulses"][2][0]
    np.testing.assert_allclose(first[..., 1], 0.0, atol=1e-7)
    assert np.abs(first[..., 0]).max() > 1e-3


def test_names_and_blocks_that_are_not_spectral() -> None:
    assert state_names(case("transformer", 2)[0]) == dict.fromkeys(
        ("cssm_0", "cssm_1"), ("Q", "K", "A")
    )
    assert state_names(case("standard")[0]) == {"cssm_0": ("h",)}
    model, variables, x = case("no_fft")
    matrices = jax.eval_shape(lambda v, x: transition_matrices(model, v, x), variables, x)
    assert state_names(model) == {} == matrices


def test_gates_of_mean_parameters() -> None:
    model, variables, _ = case("transformer")
    gate = variables["params"]["cssm_0"]["decay_Q"]
    z = float(gate["kernel"].mean() + gate["bias"].mean())
    sigmoid = 1 / (1 + np.exp(-z))
    true = mean_parameter_gates(model, variables["params"])["cssm_0"]
    plain = mean_parameter_gates(model, variables["params"], "plain_sigmoid")["cssm_0"]
    np.testing.assert_allclose(true["decay_Q"], 0.1 + 0.89 * sigmoid, rtol=1e-6)
    np.testing.assert_allclose(plain["decay_Q"], sigmoid, rtol=1e-6)
    assert true["alpha"] == plain["alpha"]
    with pytest.raises(ValueError, match="bounds is 'tanh'"):
        mean_parameter_gates(model, variables["params"], "tanh")  # type: ignore[arg-type]
