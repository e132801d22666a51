"""Modulation: the identity at the start, its equation, ensembles and pathways."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from common.injection import (
    FiLM,
    FiLMEnsemble,
    FiLMGenerator,
    PathwayFiLM,
    PooledFiLM,
    SamePath,
    by_member,
    ensemble_prediction,
    for_members,
)
from tests.injection.draws import float64, fresh, noisy, normal, require_finite_gradients

SHAPES = [(2, 5), (2, 3, 5), (2, 3, 7, 5)]
GENERATORS = {"linear": FiLMGenerator(5), "mlp": FiLMGenerator(5, (6, 3))}
SPREAD = FiLMGenerator(5, bias_init=nn.initializers.normal(0.5))


@pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS)
def test_film_is_the_identity_at_the_start(generator):
    module, x, z = FiLM(generator), normal(0, *SHAPES[-1]), normal(1, 2, 4)
    variables = fresh(module, x, z)
    for shape in SHAPES:
        x = normal(0, *shape)
        np.testing.assert_array_equal(module.apply(variables, x, z), x)


@pytest.mark.parametrize("shape", SHAPES)
def test_film_follows_its_equation(shape):
    module, x, z = FiLM(GENERATORS["mlp"]), normal(0, *shape), normal(1, 2, 4)
    variables = noisy(module, x, z)
    p = float64(variables["params"]["generator"])
    h = z
    for name in ("hidden_0", "hidden_1"):
        h = np.maximum(h @ p[name]["kernel"] + p[name]["bias"], 0)
    generated = h @ p["last"]["kernel"] + p["last"]["bias"]
    gamma, beta = (
        np.asarray(part).reshape(2, *(1,) * (len(shape) - 2), 5)
        for part in (1 + generated[:, :5], generated[:, 5:])
    )
    found, sown = module.apply(variables, x, z, mutable=["intermediates"])
    np.testing.assert_allclose(found, gamma * x + beta, atol=1e-5)
    np.testing.assert_allclose(sown["intermediates"]["beta"][0], beta.reshape(2, 5), atol=1e-6)
    require_finite_gradients(module, variables, x, z)


def test_film_learns_from_the_start():
    """The last layer of zeros has a gradient, though the hidden ones have none yet."""
    module, x, z = FiLM(GENERATORS["linear"]), normal(0, 2, 3, 5), normal(1, 2, 4)
    require_finite_gradients(module, fresh(module, x, z), x, z)


def test_pooled_film_does_not_care_for_the_order_of_features():
    module, x, features = PooledFiLM(FiLM(SPREAD)), normal(0, 2, 3, 5), normal(1, 2, 7, 4)
    variables = noisy(module, x, features)
    out = module.apply(variables, x, features)
    np.testing.assert_allclose(module.apply(variables, x, features[:, ::-1]), out, atol=1e-5)
    assert np.abs(out - x).max() > 0.1


def test_an_ensemble_of_one_is_film():
    x, z = normal(0, 2, 3, 5), normal(1, 2, 4)
    one, plain = FiLMEnsemble(1, GENERATORS["mlp"]), FiLM(GENERATORS["mlp"])
    variables = noisy(plain, x, z)
    stacked = jax.tree.map(lambda leaf: leaf[None], variables)
    np.testing.assert_allclose(one.apply(stacked, x, z), plain.apply(variables, x, z), atol=1e-6)


def test_each_member_is_film_with_its_own_generator():
    members, x, z = 3, normal(0, 2, 3, 5), normal(1, 2, 4)
    module, plain = FiLMEnsemble(members, GENERATORS["mlp"]), FiLM(GENERATORS["mlp"])
    batch = for_members(x, members)
    variables = noisy(module, batch, z)
    parts = by_member(jax.jit(module.apply)(variables, batch, z), members)
    for number, part in enumerate(parts):
        own = jax.tree.map(lambda leaf, number=number: leaf[number], variables)
        np.testing.assert_allclose(part, plain.apply(own, x, z), atol=1e-5)
    assert np.abs(parts[0] - parts[1]).max() > 0.1


def test_members_that_begin_apart_end_apart_and_others_never_do():
    """A regression that modulation alone can fit, trained with and without a spread."""
    x, z, members = normal(0, 8, 5), normal(1, 8, 4), 3
    target = np.tanh(2 * x[:, :1] * z[:, :1])
    gaps = []
    for generator in (SPREAD, GENERATORS["linear"]):
        module, batch = FiLMEnsemble(members, generator), for_members(x, members)
        params = fresh(module, batch, z)["params"]
        optimiser = optax.adam(0.02)

        def loss(params, module=module, batch=batch):
            out = jnp.tanh(module.apply({"params": params}, batch, z).sum(-1, keepdims=True))
            return jnp.square(by_member(out, members) - target[None]).mean()

        @jax.jit
        def step(carry, _, loss=loss, optimiser=optimiser):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimiser.update(gradient, state)
            return (optax.apply_updates(params, updates), state), value

        (params, _), losses = jax.lax.scan(step, (params, optimiser.init(params)), None, 100)
        assert losses[-1] < 0.6 * losses[0]
        out = by_member(module.apply({"params": params}, batch, z), members)
        gaps.append(float(jnp.abs(out[0] - out[1]).max()))
    assert gaps[0] > 0.1
    assert gaps[1] == 0


def test_the_prediction_of_an_ensemble_by_definition():
    logits = 2 * normal(0, 4, 3, 5)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = jax.jit(ensemble_prediction)(logits)
    np.testing.assert_allclose(found.mean, p.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.variance, p.var(0), atol=1e-6)
    pairs = [(a, b) for a in range(4) for b in range(4) if a != b]
    votes = logits.argmax(-1)
    disagreement = np.mean([votes[a] != votes[b] for a, b in pairs], axis=0)
    np.testing.assert_allclose(found.disagreement, disagreement, atol=1e-6)
    mean = p.mean(0)
    information = -(mean * np.log(mean)).sum(-1) + (p * np.log(p)).sum(-1).mean(0)
    np.testing.assert_allclose(found.mutual_information, information, atol=1e-5)


def test_the_prediction_of_members_that_agree_and_that_do_not():
    sure = np.float32([[[60, 0, 0]], [[0, 60, 0]]])
    predict = jax.jit(ensemble_prediction)
    found = predict(sure)
    np.testing.assert_allclose(found.mutual_information, np.log(2), atol=1e-5)
    np.testing.assert_allclose(found.disagreement, 1)
    same = predict(np.repeat(sure[:1], 2, 0))
    np.testing.assert_allclose([same.mutual_information[0], same.disagreement[0]], 0, atol=1e-6)
    assert predict(sure[:1]).disagreement[0] == 0


def test_a_batch_that_is_not_one_part_a_member_is_refused():
    module = FiLMEnsemble(3, SPREAD)
    with pytest.raises(ValueError, match="a batch of 4; expected 3 members of 2"):
        module.init(jax.random.key(0), normal(0, 4, 5), normal(1, 2, 4))
    with pytest.raises(ValueError, match="a batch of 4 does not divide into 3 members"):
        by_member(normal(0, 4, 5), 3)


def test_one_pathway_is_film():
    x, z, plain = normal(0, 2, 3, 5), normal(1, 2, 4), FiLM(GENERATORS["linear"])
    module = PathwayFiLM((SamePath(),), (FiLM(GENERATORS["linear"]),))
    variables = noisy(module, x, z)
    own = {"params": variables["params"]["films_0"]}
    np.testing.assert_allclose(module.apply(variables, x, z), plain.apply(own, x, z), atol=1e-6)


def test_nine_pathways_are_the_mixture_of_their_films():
    x, z = normal(0, 2, 3, 5), normal(1, 2, 4)
    paths = tuple(nn.Dense(5) for _ in range(9))
    module = PathwayFiLM(paths, tuple(FiLM(FiLMGenerator(5)) for _ in range(9)))
    variables = noisy(module, x, z)
    p = float64(variables["params"])
    logits = z @ p["shares"]["kernel"] + p["shares"]["bias"]
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = 0
    for n in range(9):
        y = x @ p[f"paths_{n}"]["kernel"] + p[f"paths_{n}"]["bias"]
        last = p[f"films_{n}"]["generator"]["last"]
        generated = (z @ last["kernel"] + last["bias"])[:, None]
        y = (1 + generated[..., :5]) * y + generated[..., 5:]
        expected = expected + np.asarray(shares)[:, n, None, None] * y
    found, sown = jax.jit(lambda v: module.apply(v, x, z, mutable=["intermediates"]))(variables)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(sown["intermediates"]["path_shares"][0], shares, atol=1e-6)
    require_finite_gradients(module, variables, x, z)


def test_pathways_count_alike_at_the_start():
    x, z = normal(0, 2, 5), normal(1, 2, 4)
    module = PathwayFiLM((SamePath(), SamePath()), (FiLM(SPREAD), FiLM(SPREAD)))
    _, sown = module.apply(fresh(module, x, z), x, z, mutable=["intermediates"])
    np.testing.assert_allclose(sown["intermediates"]["path_shares"][0], 0.5)


def test_pathways_need_a_film_each():
    with pytest.raises(ValueError, match="2 pathways and 1 FiLM layers"):
        PathwayFiLM((SamePath(), SamePath()), (FiLM(SPREAD),))
