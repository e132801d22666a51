"""The Mllama decoder: its schedule, its start, causality, and its rotary positions."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from common.injection import (
    HalfRotation,
    Llama3Scaling,
    MllamaSizes,
    mllama_decoder,
    mllama_schedule,
)
from tests.injection.draws import noisy, normal

SIZES = MllamaSizes(
    vocabulary=11, width=8, depth=4, heads=4, groups=2, hidden=12, cross_layers=mllama_schedule(4)
)
TOKENS = np.array([[1, 5, 3, 2, 7], [18, 9, 10, 0, 4]])
VISION = normal(0, 2, 6, 8)


@pytest.mark.parametrize(
    ("depth", "period", "expected"),
    [
        (40, 5, (3, 8, 13, 18, 23, 28, 33, 38)),
        (8, 4, (3, 7)),
        (4, 5, (3,)),
        (3, 5, ()),
        (6, 1, (3, 4, 5)),
    ],
)
def test_the_schedule(depth, period, expected):
    assert mllama_schedule(depth, period) == expected


@pytest.mark.parametrize(("depth", "period"), [(-1, 5), (40, 0)])
def test_no_schedule(depth, period):
    with pytest.raises(ValueError, match=f"{depth} layers with a period of {period}"):
        mllama_schedule(depth, period)


@functools.cache
def decoder():
    module = mllama_decoder(SIZES)
    return module, noisy(module, TOKENS, VISION), jax.jit(module.apply)


def test_with_gates_at_rest_an_image_changes_nothing():
    _, variables, run = decoder()
    params = variables["params"]
    cross = params["layers_3"] | {name: np.zeros(1) for name in ("attention_gate", "mlp_gate")}
    still = {"params": params | {"layers_3": cross}}
    seen = run(still, TOKENS, VISION)
    np.testing.assert_array_equal(seen.logits, run(still, TOKENS).logits)
    assert len(seen.hidden_states) == 5
    assert np.abs(run(variables, TOKENS, VISION).logits - seen.logits).max() > 0.1


def test_no_logit_depends_on_a_later_token_or_on_padding():
    module, variables, _ = decoder()
    table = variables["params"]["embedding"]
    tokens, real = np.arange(5)[None], np.array([[1, 1, 0, 1, 1]])

    def logits(table):
        params = variables["params"] | {"embedding": table}
        out = module.apply({"params": params}, tokens, VISION[:1], None, real)
        return out.logits[0].sum(-1)

    moved = np.abs(np.asarray(jax.jit(jax.jacrev(logits))(table))).max(-1)[:, :5] > 0
    expected = np.tri(5, dtype=bool)
    expected[3:, 2] = False
    np.testing.assert_array_equal(moved, expected)


def test_scores_depend_on_the_distance_of_places_alone():
    rotation = HalfRotation(100.0, Llama3Scaling(4.0, 1.0, 4.0, 16))
    q, k = normal(0, 1, 1, 1, 6), normal(1, 1, 1, 1, 6)

    def score(a, b):
        return (rotation(q, np.array([[a]])) * rotation(k, np.array([[b]]))).sum()

    np.testing.assert_allclose(score(9, 7), score(3, 1), atol=1e-5)
    assert abs(score(9, 7) - score(9, 6)) > 1e-2
    np.testing.assert_allclose(rotation(q, np.zeros((1, 1), int)), q)


def test_channels_turn_with_those_half_a_head_away():
    x, rotation = np.zeros((1, 1, 1, 6), np.float32), HalfRotation(100.0)
    x[..., 1] = 1
    turned = np.asarray(rotation(x, np.array([[2]])))[0, 0, 0]
    angle = 2 * 100 ** (-2 / 6)
    np.testing.assert_allclose(turned, [0, np.cos(angle), 0, 0, np.sin(angle), 0], atol=1e-6)


def test_scaling_slows_the_slow_frequencies():
    """Fast ones stay, slow ones are divided, as the wavelengths 4 and 16 part them."""
    scaling = Llama3Scaling(factor=4.0, low=1.0, high=4.0, original=16)
    wavelengths = np.array([2.0, 3.9, 8.0, 16.1, 100.0])
    found = scaling(2 * np.pi / wavelengths) * wavelengths / (2 * np.pi)
    share = (16 / 8 - 1) / 3
    np.testing.assert_allclose(found, [1, 1, (1 - share) / 4 + share, 1 / 4, 1 / 4])
    same = Llama3Scaling(1.0, 1.0, 4.0, 16)
    np.testing.assert_allclose(same(wavelengths), wavelengths)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "width is 8; expected a multiple of 3 heads"),
        ({"groups": 3}, "4 heads; expected a multiple of 3 groups"),
        ({"cross_layers": (1, 4)}, r"cross layers \[4\] of 4 layers"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SIZES, **change)


def test_an_odd_head_cannot_turn():
    with pytest.raises(ValueError, match="even number of channels; got 5"):
        HalfRotation().frequencies(5)
