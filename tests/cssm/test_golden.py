"""Parity with the public research code (drewlinsley/CSSM, January 2026) in float64.

The fixtures hold checkpoints with random parameters as that code writes them, inputs, and what it
computes from them at double precision; no code of it. The gradients are those of `logits[0, 1]`.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cssm import checkpoint_to_model
from cssm.blocks import GatedBlock, HGRUBilinearBlock, TransformerBlock

FOLDER = Path(__file__).parent / "golden"
BLOCKS = {
    "transformer_32_e8_k5": TransformerBlock,
    "hgru_bi_32_e8_k5": HGRUBilinearBlock,
    "gated_32_e8_k5": GatedBlock,
    "transformer_64_e64_k15_notebook": TransformerBlock,
}
STEPS = 8
each_case = pytest.mark.parametrize("case", BLOCKS)


@functools.cache
def golden(case: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / case / "expected.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def below(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


@functools.cache
def ours(case: str) -> dict[str, Any]:
    """Logits, intermediates, and the gradients of logits[0, 1] and of the mean cross-entropy."""
    model, variables = checkpoint_to_model(FOLDER / case / "checkpoint.pkl")
    x, labels = golden(case)["x"], golden(case).get("labels", np.zeros(2, np.int32))
    video = x if x.ndim == 5 else x[:, None].repeat(STEPS, 1)

    @jax.jit
    def run(params, video, labels):
        def apply(params, x):
            return model.apply({"params": params}, x, training=False, mutable=["intermediates"])

        logits, pullback, sown = jax.vjp(apply, params, video, has_aux=True)
        one_hot = jax.nn.one_hot(labels, 2)
        cotangents = jnp.stack(
            [jnp.zeros((2, 2)).at[0, 1].set(1.0), (jax.nn.softmax(logits) - one_hot) / 2]
        )
        gradients, x_gradients = jax.vmap(pullback)(cotangents)
        return {
            "logits": logits,
            "loss": -(jax.nn.log_softmax(logits) * one_hot).sum(-1).mean(),
            "sown": sown["intermediates"],
            "x_gradient": x_gradients[0],
            "gradient": jax.tree.map(lambda g: g[0], gradients),
            "loss_gradient": jax.tree.map(lambda g: g[1], gradients),
        }

    return jax.tree.map(np.asarray, run(variables["params"], video, labels))


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    difference = np.asarray(actual, np.float64) - expected
    return float(np.abs(difference).max() / np.abs(expected).max())


def check(case: str, kind: str, pairs: dict[str, tuple[Any, np.ndarray]]) -> None:
    """Compares every array with what it should be, and names the worst."""
    errors = {name: relative_error(*pair) for name, pair in pairs.items()}
    worst = max(errors, key=lambda name: errors[name])
    assert errors[worst] < golden(case)[f"tolerance/{kind}_rel_to_max"], worst


@each_case
def test_logits(case: str) -> None:
    worst = np.abs(ours(case)["logits"] - golden(case)["logits_f64"]).max()
    assert worst < golden(case)["tolerance/logits_abs"]


@each_case
def test_logits_without_intermediates(case: str) -> None:
    """The path that keeps the last state alone; with the still images as they are."""
    model, variables = checkpoint_to_model(FOLDER / case / "checkpoint.pkl")
    logits = jax.jit(functools.partial(model.apply, training=False))(variables, golden(case)["x"])
    worst = np.abs(np.asarray(logits) - golden(case)["logits_f64"]).max()
    assert worst < golden(case)["tolerance/logits_abs"]


@pytest.mark.parametrize("case", ["transformer_32_e8_k5", "hgru_bi_32_e8_k5"])
def test_native_loops_give_the_same(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    native = flatten_dict(ours.__wrapped__(case), sep="/")
    for name, expected in flatten_dict(ours(case), sep="/").items():
        jax.tree.map(
            lambda x, y: np.testing.assert_array_less(relative_error(x, y), 1e-5),
            native[name],
            expected,
        )


@pytest.mark.parametrize("case", [c for c in BLOCKS if "32" in c])
def test_features(case: str) -> None:
    arrays, sown = golden(case), ours(case)["sown"]
    pairs = {n: (sown[n][0], arrays[n]) for n in ("pre_cssm", "post_cssm") if n in arrays}
    if "cssm_0_out" in arrays:
        update = sown["post_cssm"][0] - sown["pre_cssm"][0]
        pairs["cssm_0_out"] = (update, arrays["cssm_0_out"])
    if "output_proj_in" in arrays:
        expected = arrays["output_proj_in"]
        states = np.moveaxis(sown["cssm_0"]["states"][0], 0, 1).reshape(expected.shape)
        pairs["output_proj_in"] = (states, expected)
    check(case, "features", pairs)


@pytest.mark.parametrize("case", [c for c in BLOCKS if "32" in c])
def test_gates(case: str) -> None:
    (gates,) = ours(case)["sown"]["cssm_0"]["gates"]
    raw, bounds = below(golden(case), "gate_raw/"), BLOCKS[case].gate_bounds
    assert gates.keys() == raw.keys() == bounds.keys()
    pairs = {}
    for name, gate in gates.items():
        expected = np.asarray(bounds[name](raw[name]))
        pairs[name] = (np.moveaxis(gate, 0, 1).reshape(expected.shape), expected)
    check(case, "features", pairs)


@each_case
def test_attribution_to_the_input(case: str) -> None:
    arrays, gradient = golden(case), ours(case)["x_gradient"]
    pairs = {
        "input_grad_abs_per_timestep": np.abs(gradient[0]).sum((1, 2, 3)),
        "input_grad_signed_sum_per_timestep": gradient[0].astype(np.float64).sum((1, 2, 3)),
        "input_grad": gradient[:1],
    }
    check(case, "gradients", {n: (g, arrays[n]) for n, g in pairs.items() if n in arrays})
    np.testing.assert_array_equal(gradient[1], 0.0)


@each_case
def test_gradients_of_the_parameters(case: str) -> None:
    expected = below(golden(case), "param_grad/")
    gradients: Any = flatten_dict(ours(case)["gradient"], sep="/")
    if "32" in case:
        assert gradients.keys() == expected.keys()
    check(case, "gradients", {name: (gradients[name], e) for name, e in expected.items()})


@each_case
def test_mechanism_attribution(case: str) -> None:
    """Mean magnitude of the gradient over kernel and bias of each gate, as the notebooks show."""
    expected, pairs = below(golden(case), "param_grad_meanabs/"), {}
    for name, mean in expected.items():
        block, parameter = name.split("/")
        leaves = jax.tree.leaves(ours(case)["gradient"][block][parameter])
        ours_mean = sum(np.abs(g).sum() for g in leaves) / sum(g.size for g in leaves)
        pairs[name] = (np.asarray(ours_mean), mean)
    check(case, "gradients", pairs)


@pytest.mark.parametrize("case", [c for c in BLOCKS if "32" in c])
def test_loss_and_the_norm_of_its_gradient(case: str) -> None:
    squares = [
        np.sum(np.square(g, dtype=np.float64)) for g in jax.tree.leaves(ours(case)["loss_gradient"])
    ]
    pairs = {
        "loss": (ours(case)["loss"], golden(case)["loss"]),
        "norm": (np.sqrt(sum(squares)), golden(case)["loss_grad_global_norm"]),
    }
    check(case, "gradients", pairs)
