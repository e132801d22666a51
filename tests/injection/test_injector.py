"""Mechanisms before the layers of decoders that know nothing of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from common.injection import (
    DisentangledAttention,
    DisentangledLayer,
    FiLM,
    FiLMGenerator,
    Injector,
    LinearProjector,
    PooledFiLM,
    ReplaceTokens,
    early_layers,
    every_kth_layer,
    gated_cross_attention,
    late_layers,
    layer_names,
    middle_layers,
)
from convattn import Sizes, hybrid
from tests.injection.draws import fresh, noisy, normal, require_finite_gradients

VISION = normal(0, 2, 6, 5)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (early_layers(9, 3), (0, 1, 2)),
        (middle_layers(9, 3), (3, 4, 5)),
        (middle_layers(8, 3), (2, 3, 4)),
        (late_layers(9, 3), (6, 7, 8)),
        (late_layers(2, 2), (0, 1)),
        (every_kth_layer(9, 4), (0, 4, 8)),
        (every_kth_layer(40, 5, 3), (3, 8, 13, 18, 23, 28, 33, 38)),
    ],
)
def test_positions(found, expected):
    assert found == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: early_layers(3, 4), "4 of 3 layers"),
        (lambda: middle_layers(3, 0), "0 of 3 layers"),
        (lambda: late_layers(3, 4), "4 of 3 layers"),
        (lambda: every_kth_layer(3, 0), "every 0 layers"),
        (lambda: every_kth_layer(3, 1, 3), "from 3 of 3"),
    ],
)
def test_positions_that_are_none(call, message):
    with pytest.raises(ValueError, match=message):
        call()


class Add(nn.Module):
    """Adds a number times the mean of the features."""

    factor: float

    def __call__(self, x, features):
        return x + self.factor * features.mean(1, keepdims=True)[..., :1]


class Stack(nn.Module):
    """x -> 2 x + 1, layer by layer: order and number of mechanisms can be read off."""

    depth: int

    def setup(self):
        self.layers = [Double() for _ in range(self.depth)]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Double(nn.Module):
    def __call__(self, x):
        return 2 * x + 1


@pytest.mark.parametrize("places", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_a_mechanism_stands_before_its_layer(places):
    x, m = normal(1, 2, 3, 4), np.asarray(VISION).mean(1, keepdims=True)[..., :1]
    mechanisms = tuple(Add(10.0**place) for place in places)
    module = Injector(Stack(3), mechanisms, layer_names(places))
    expected = x
    for number in range(3):
        if number in places:
            expected = expected + 10.0**number * m
        expected = 2 * expected + 1
    found = module.apply({}, x, context=(VISION,))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_without_mechanisms_the_decoder_is_itself():
    x = normal(1, 2, 3, 4)
    found = Injector(Stack(3), (), ()).apply({}, x)
    np.testing.assert_array_equal(found, Stack(3).apply({}, x))


def test_places_that_are_none_are_refused():
    with pytest.raises(
        ValueError, match=r"no layers \['layers_3'\] were called; there are \['layers_0'"
    ):
        Injector(Stack(3), (Add(1.0),), ("layers_3",)).apply(
            {}, normal(1, 2, 3, 4), context=(VISION,)
        )
    with pytest.raises(ValueError, match="1 mechanisms for the places"):
        Injector(Stack(3), (Add(1.0),), ("layers_0", "layers_1"))
    with pytest.raises(ValueError, match="2 mechanisms for the places"):
        Injector(Stack(3), (Add(1.0), Add(2.0)), ("layers_0", "layers_0"))


LANGUAGE = Sizes(vocabulary=11, width=8, heads=2, length=6)
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 5))
MECHANISMS = {
    "gated": lambda: gated_cross_attention(2, 4, 12),
    "film": lambda: PooledFiLM(FiLM(FiLMGenerator(8))),
    "disentangled": lambda: DisentangledLayer(DisentangledAttention(2, 3)),
}


def language(*names):
    """A language model of four layers, the mechanisms before the layers of these numbers."""
    numbers = tuple(number for number, _ in names)
    mechanisms = tuple(MECHANISMS[name]() for _, name in names)
    return Injector(hybrid(LANGUAGE, depth=1, mlp=True), mechanisms, layer_names(numbers))


def test_mechanisms_begin_as_the_identity_in_a_language_model():
    module = language((0, "film"), (1, "gated"), (2, "disentangled"))
    params = fresh(module, TOKENS, context=(VISION,))["params"]
    plain = jax.jit(module.decoder.apply)({"params": params["decoder"]}, TOKENS)
    found = jax.jit(lambda p: module.apply({"params": p}, TOKENS, context=(VISION,)))(params)
    np.testing.assert_array_equal(found, plain)
    assert set(params) == {"decoder", "mechanisms_0", "mechanisms_1", "mechanisms_2"}


@functools.cache
def seeing():
    module = language((0, "film"), (2, "gated"))
    return module, noisy(module, TOKENS, context=(VISION,))


def test_gradients_reach_the_mechanisms_and_the_decoder():
    module, variables = seeing()
    require_finite_gradients(module, variables, TOKENS, context=(VISION,))


def test_a_sequence_in_pieces_sees_the_same():
    """`extend` of the decoder, whose MLP layer calls itself: injected once all the same."""
    module, variables = seeing()

    @jax.jit
    def in_pieces(variables):
        state, parts = module.decoder.init_state(2, 5), []
        for piece in jnp.split(jnp.asarray(TOKENS), [1, 3], axis=1):
            logits, state = module.apply(
                variables, piece, state, context=(VISION,), decoder_method="extend"
            )
            parts.append(logits)
        return jnp.concatenate(parts, 1)

    whole = jax.jit(lambda v: module.apply(v, TOKENS, context=(VISION,)))(variables)
    np.testing.assert_allclose(in_pieces(variables), whole, atol=1e-5)


def test_image_tokens_are_replaced_at_any_layer():
    places = TOKENS == TOKENS[0, 0]
    x, source = normal(1, 2, 5, 4), LinearProjector(4)
    module = Injector(Stack(2), (ReplaceTokens(source),), ("layers_1",))
    variables = noisy(module, x, context=(VISION, places))
    found = module.apply(variables, x, context=(VISION, places))
    tokens = source.apply({"params": variables["params"]["mechanisms_0"]["source"]}, VISION)
    expected = 2 * np.asarray(x) + 1
    for b in range(2):
        for n, t in enumerate(np.flatnonzero(places[b])):
            expected[b, t] = tokens[b, n]
    np.testing.assert_allclose(found, 2 * expected + 1, atol=1e-5)


def test_one_mechanism_at_two_places_shares_its_parameters():
    shared = PooledFiLM(FiLM(FiLMGenerator(4)))
    module = Injector(Stack(2), (shared, shared), ("layers_0", "layers_1"))
    x = normal(1, 2, 3, 4)
    variables = noisy(module, x, context=(VISION,))
    assert set(variables["params"]) == {"mechanisms_0"}
    own = {"params": variables["params"]["mechanisms_0"]}
    expected = x
    for _ in range(2):
        expected = 2 * shared.apply(own, expected, VISION) + 1
    np.testing.assert_allclose(module.apply(variables, x, context=(VISION,)), expected, rtol=1e-5)
