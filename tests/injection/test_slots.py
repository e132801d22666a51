"""Slot attention against its algorithm, and what permuting slots or features does."""

import functools

import jax
import numpy as np
import pytest

from common.injection import (
    GatedMLP,
    MultiHeadAttention,
    OwnQueries,
    SharedQueries,
    SlotAttention,
    SlotQueryAttention,
    SlotResampler,
)
from tests.injection.draws import (
    float64,
    layer_norm,
    noisy,
    normal,
    require_finite_gradients,
    softmax,
)

FEATURES, NOISE = normal(0, 2, 7, 5), normal(1, 2, 3, 4)
ORDER = np.array([2, 0, 1])
MODULE = SlotAttention(width=4, hidden=6, rounds=2)


@functools.cache
def made():
    return noisy(MODULE, FEATURES, NOISE), jax.jit(MODULE.apply)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_equals_the_algorithm():
    """Algorithm 1 of the paper, in float64."""
    variables, _ = made()
    p = float64(variables["params"])

    def linear(x, part):
        return x @ part["kernel"] + part.get("bias", 0)

    slots = p["mu"] + np.exp(p["log_sigma"]) * NOISE
    inputs = layer_norm(FEATURES, p["features_norm"], 1e-5)
    key, value = linear(inputs, p["key"]), linear(inputs, p["value"])
    for _ in range(2):
        query = linear(layer_norm(slots, p["slots_norm"], 1e-5), p["query"])
        weights = softmax(np.einsum("bkd,bsd->bks", query, key) / 2, axis=1)
        shares = (weights + 1e-8) / (weights + 1e-8).sum(-1, keepdims=True)
        u, g = np.einsum("bks,bsd->bkd", shares, value), p["gru"]
        reset = sigmoid(linear(u, g["ir"]) + linear(slots, g["hr"]))
        update = sigmoid(linear(u, g["iz"]) + linear(slots, g["hz"]))
        new = np.tanh(linear(u, g["in"]) + reset * linear(slots, g["hn"]))
        slots = (1 - update) * new + update * slots
        hidden = np.maximum(linear(layer_norm(slots, p["mlp_norm"], 1e-5), p["up"]), 0)
        slots = slots + linear(hidden, p["down"])
    found, sown = jax.jit(lambda v: MODULE.apply(v, FEATURES, NOISE, mutable=["intermediates"]))(
        variables
    )
    np.testing.assert_allclose(found, slots, atol=1e-4)
    np.testing.assert_allclose(sown["intermediates"]["weights"][0], weights, atol=1e-5)


def test_permuted_noise_permutes_the_slots():
    variables, run = made()
    slots = run(variables, FEATURES, NOISE)
    found = run(variables, FEATURES, NOISE[:, ORDER])
    np.testing.assert_allclose(found, slots[:, ORDER], atol=1e-5)
    assert np.abs(slots[:, 0] - slots[:, 1]).max() > 0.1


def test_the_order_of_features_does_not_matter():
    variables, run = made()
    found = run(variables, FEATURES[:, ::-1], NOISE)
    np.testing.assert_allclose(found, run(variables, FEATURES, NOISE), atol=1e-5)


def test_slots_compete_and_any_number_may():
    variables, _ = made()
    look = jax.jit(
        lambda noise: MODULE.apply(variables, FEATURES, noise, mutable=["intermediates"])
    )
    slots, sown = look(normal(2, 2, 5, 4))
    assert slots.shape == (2, 5, 4)
    np.testing.assert_allclose(sown["intermediates"]["weights"][0].sum(1), 1, atol=1e-5)


def test_slot_attention_learns():
    require_finite_gradients(MODULE, made()[0], FEATURES, NOISE)


SLOTS = normal(3, 2, 3, 4)


def asking(queries):
    return SlotQueryAttention(queries, MultiHeadAttention(2, 3), GatedMLP(7))


def test_shared_queries_follow_the_slots():
    module = asking(SharedQueries(2, 6))
    variables, run = noisy(module, SLOTS, FEATURES), jax.jit(module.apply)
    out = run(variables, SLOTS, FEATURES)
    assert out.shape == (2, 3, 2, 6)
    np.testing.assert_allclose(run(variables, SLOTS[:, ORDER], FEATURES), out[:, ORDER], atol=1e-5)
    require_finite_gradients(module, variables, SLOTS, FEATURES)


def test_own_queries_follow_only_if_they_are_permuted_too():
    module = asking(OwnQueries(3, 2, 6))
    variables, run = noisy(module, SLOTS, FEATURES), jax.jit(module.apply)
    out = run(variables, SLOTS, FEATURES)
    moved = run(variables, SLOTS[:, ORDER], FEATURES)
    assert np.abs(moved - out[:, ORDER]).max() > 0.1
    queries = variables["params"]["queries"]
    both = variables["params"] | {"queries": queries | {"queries": queries["queries"][ORDER]}}
    found = run({"params": both}, SLOTS[:, ORDER], FEATURES)
    np.testing.assert_allclose(found, out[:, ORDER], atol=1e-5)


def test_another_number_of_slots_is_refused():
    module = asking(OwnQueries(4, 2, 6))
    with pytest.raises(ValueError, match="3 slots; there are queries of 4"):
        jax.eval_shape(module.init, jax.random.key(0), SLOTS, FEATURES)


def test_a_resampler_by_way_of_slots():
    module = SlotResampler(3, MODULE, asking(SharedQueries(2, 6)))
    variables = noisy(module, FEATURES)
    run = jax.jit(lambda key: module.apply(variables, FEATURES, rngs={"slots": key}))
    out = run(jax.random.key(0))
    assert out.shape == (2, 6, 6)
    assert np.abs(out - run(jax.random.key(1))).max() > 1e-3
