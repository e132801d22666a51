"""What is measured of ensembles' members and mixtures' pathways, and how the page tells it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.analysis import Page
from common.data.pipeline import gather
from common.data.sort_of_clevr import TYPES
from experiments.analyses.injection_parts import ensemble_sureness, pathway_parts, sureness
from experiments.cli import load_config
from experiments.injection import DEFAULT_CONFIG
from experiments.reports.injection_parts import add_ensembles, add_pathways
from experiments.tasks.injection import make_task
from tests.experiments.seeing import seeing


def noisy(variant):
    """A task of one layer with parameters that are nowhere at rest."""
    fields = {"model.depth": 1, "model.layers": (0,), "data.test_count": 4}
    config = load_config(f"{DEFAULT_CONFIG}:{variant},smoke", fields)
    task = make_task(config, seeing(config))
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0.2, 0.5, x.shape), x.dtype), shapes)
    return task, params, gather(task.eval_sources["test"], np.arange(4))


def test_sureness_is_as_by_hand():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([0.3] * 4, (20, 6))
    answers = rng.integers(0, 4, (20, 6))
    found = sureness(p, answers)
    pairs = [
        (max(q), int(np.argmax(q)) == a)
        for q, a in zip(p.reshape(-1, 4), answers.flat, strict=True)
    ]
    error = 0.0
    for low in range(15):
        inside = [pair for pair in pairs if low <= pair[0] * 15 < low + 1 + (low == 14)]
        if inside:
            confidence, right = (np.mean([pair[i] for pair in inside]) for i in (0, 1))
            error += len(inside) / len(pairs) * abs(confidence - right)
    assert found.calibration_error == pytest.approx(error)
    assert found.right == pytest.approx(np.mean([right for _, right in pairs]))
    told = [q[a] for q, a in zip(p.reshape(-1, 4), answers.flat, strict=True)]
    assert found.loss == pytest.approx(-np.mean(np.log(told)))


def test_an_ensemble_stands_beside_its_members():
    task, params, batch = noisy("film_ensemble")
    found = ensemble_sureness(task, params, batch)
    assert found is not None
    logits = np.asarray(jax.jit(task.answer)(params, batch), np.float64)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    answers = batch["tokens"][..., -1]
    for number, member in enumerate(found.members):
        assert member == pytest.approx(sureness(p[number], answers), rel=1e-3)
    assert found.ensemble == pytest.approx(sureness(p.mean(0), answers), rel=1e-3)
    wrong = p.mean(0).argmax(-1) != answers
    differ = logits[0].argmax(-1) != logits[1].argmax(-1)
    assert found.disagreement[1] == pytest.approx(differ[wrong].mean())
    page = Page("ensembles")
    add_ensembles(page, {"this": (task, params)})
    assert "all members" in page.html()


def test_pathways_have_the_parts_that_they_give():
    task, params, batch = noisy("pathways")
    (parts,) = pathway_parts(task, with_shares(params, 0.0), batch).values()
    assert parts.shape == (len(TYPES), 3)
    np.testing.assert_allclose(parts.sum(-1), 1)
    assert parts.min() > 0.05
    (more,) = pathway_parts(task, with_shares(params, np.log(2)), batch).values()
    expected = parts * [2, 1, 1]
    np.testing.assert_allclose(more, expected / expected.sum(-1, keepdims=True), rtol=1e-3)
    page = Page("pathways")
    add_pathways(page, {"this": (task, params)})
    assert "Do pathways specialise?" in page.html()


def with_shares(params, first):
    """Parameters by which the shares are the softmax of (first, 0, 0)."""

    def change(path, x):
        if path[-2].key != "shares":
            return x
        return jnp.zeros_like(x) if x.ndim > 1 else jnp.zeros_like(x).at[0].set(first)

    return jax.tree_util.tree_map_with_path(change, params)


def test_what_has_one_member_or_no_pathways_is_left_out():
    task, params, batch = noisy("film")
    assert ensemble_sureness(task, params, batch) is None
    assert pathway_parts(task, params, batch) == {}
