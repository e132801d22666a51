"""Parity with the public research code (drewlinsley/CSSM, January 2026) in float64.

The fixture holds random parameters, an input, and what that code computes from them at double
precision; no code of it. The gradients are those of `logits[0, 1]`.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from cssm import SimpleCSSM

FIXTURE = Path(__file__).parent / "golden" / "transformer_32_e8_k5.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FIXTURE, allow_pickle=False) as arrays:
        return dict(arrays)


def below(golden: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}


@pytest.fixture(scope="module")
def ours(golden: dict[str, np.ndarray]) -> dict[str, Any]:
    """Logits, intermediates, and the gradients of logits[0, 1] and of the mean cross-entropy."""
    model = SimpleCSSM(embed_dim=8, kernel_size=5, seq_len=8, origin="upstream")

    @jax.jit
    def run(params, x, labels):
        def apply(params, x):
            return model.apply({"params": params}, x, mutable=["intermediates"])

        logits, pullback, sown = jax.vjp(apply, params, x, has_aux=True)
        one_hot = jax.nn.one_hot(labels, 2)
        cotangents = jnp.stack(
            [jnp.zeros((2, 2)).at[0, 1].set(1.0), (jax.nn.softmax(logits) - one_hot) / 2]
        )
        gradients, x_gradients = jax.vmap(pullback)(cotangents)
        return {
            "logits": logits,
            "sown": sown["intermediates"],
            "x_gradient": x_gradients[0],
            "gradient": jax.tree.map(lambda g: g[0], gradients),
            "loss_gradient": jax.tree.map(lambda g: g[1], gradients),
        }

    params = unflatten_dict(below(golden, "params/"), sep="/")
    return jax.tree.map(np.asarray, run(params, golden["x"], golden["labels"]))


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def test_logits(golden: dict[str, np.ndarray], ours: dict[str, Any]) -> None:
    worst = np.abs(ours["logits"] - golden["logits_f64"]).max()
    assert worst < golden["tolerance/logits_abs"]


@pytest.mark.parametrize("name", ["pre_cssm", "post_cssm"])
def test_features(golden: dict[str, np.ndarray], ours: dict[str, Any], name: str) -> None:
    (features,) = ours["sown"][name]
    assert relative_error(features, golden[name]) < golden["tolerance/features_rel_to_max"]


def test_gates(golden: dict[str, np.ndarray], ours: dict[str, Any]) -> None:
    (gates,) = ours["sown"]["cssm_0"]["gates"]
    raw = below(golden, "gate_raw/")
    assert gates.keys() == raw.keys()
    for name, gate in gates.items():
        expected = 1.0 / (1.0 + np.exp(-raw[name]))
        if name.startswith("decay"):
            expected = 0.1 + 0.89 * expected
        batch_first = np.moveaxis(gate, 0, 1).reshape(expected.shape)
        assert relative_error(batch_first, expected) < golden["tolerance/features_rel_to_max"], name


def test_gradient_of_the_input(golden: dict[str, np.ndarray], ours: dict[str, Any]) -> None:
    error = relative_error(ours["x_gradient"][:1], golden["input_grad"])
    assert error < golden["tolerance/gradients_rel_to_max"]
    np.testing.assert_array_equal(ours["x_gradient"][1], 0.0)


def test_gradients_of_the_parameters(golden: dict[str, np.ndarray], ours: dict[str, Any]) -> None:
    expected = below(golden, "param_grad/")
    gradients: Any = flatten_dict(ours["gradient"], sep="/")
    assert gradients.keys() == expected.keys()
    errors = {name: relative_error(g, expected[name]) for name, g in gradients.items()}
    worst = max(errors, key=lambda name: errors[name])
    assert errors[worst] < golden["tolerance/gradients_rel_to_max"], worst


def test_norm_of_the_loss_gradient(golden: dict[str, np.ndarray], ours: dict[str, Any]) -> None:
    squares = [
        np.sum(np.square(g, dtype=np.float64)) for g in jax.tree.leaves(ours["loss_gradient"])
    ]
    tolerance = float(golden["tolerance/gradients_rel_to_max"])
    np.testing.assert_allclose(np.sqrt(sum(squares)), golden["loss_grad_global_norm"], tolerance)
