import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.data.pipeline import gather
from common.train import make_init, make_train_step, metric_names, parameter_count
from tests.train.toy import ToyTask

LOG_EVERY = 3


@pytest.fixture
def task():
    return ToyTask()


@pytest.fixture
def batch(task):
    return gather(task.train_source, np.arange(8))


def start(task, batch):
    optimizer = optax.sgd(0.1)
    init = make_init(task, optimizer, metric_names(task, batch))
    return init(jax.random.key(0)), make_train_step(task, optimizer, LOG_EVERY)


def test_totals_sum_over_one_window_and_start_anew(task, batch):
    state, step = start(task, batch)
    losses, totals = [], []
    for number in range(5):
        rng = jax.random.fold_in(state.rng, number)
        losses.append(float(task.loss(state.params, batch, rng)[0]))
        state = step(state, batch)
        totals.append(float(state.totals["loss"]))
    sums = [*np.cumsum(losses[:LOG_EVERY]), *np.cumsum(losses[LOG_EVERY:])]
    np.testing.assert_allclose(totals, sums, rtol=1e-5)
    assert int(state.step) == 5
    assert set(state.totals) == {"loss", "accuracy", "gradient_norm"}


def test_the_update_is_the_optimizers(task, batch):
    state, step = start(task, batch)
    rng = jax.random.fold_in(state.rng, 0)
    gradients = jax.grad(lambda p: task.loss(p, batch, rng)[0])(state.params)
    expected = jax.tree.map(lambda p, g: np.asarray(p - 0.1 * g), state.params, gradients)
    norm = float(optax.tree.norm(gradients))
    state = step(state, batch)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), state.params, expected)
    assert float(state.totals["gradient_norm"]) == pytest.approx(norm, rel=1e-5)


def test_every_step_has_its_own_key(task, batch):
    state, step = start(task, batch)
    frozen = jax.tree.map(np.asarray, state.params)
    losses = []
    for number in range(2):
        state = state.replace(params=jax.tree.map(jnp.asarray, frozen), step=jnp.int32(number * 3))
        state = step(state, batch)
        losses.append(float(state.totals["loss"]))
    assert losses[0] != losses[1]


def test_the_initial_state_has_no_weak_types(batch):
    class Weak(ToyTask):
        def init(self, rng):
            params = super().init(rng)
            return params | {"scale": jnp.asarray(0.5)}

    state, _ = start(Weak(), batch)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state.replace(rng=None)))
    assert jnp.asarray(0.5).weak_type


def test_metric_names_are_checked(task, batch):
    class Named(ToyTask):
        def loss(self, params, batch, rng):
            loss, _ = super().loss(params, batch, rng)
            return loss, {"timing": loss}

    class Unreduced(ToyTask):
        def loss(self, params, batch, rng):
            return super().loss(params, batch, rng)[0], self.score(params, batch)

    with pytest.raises(ValueError, match=r"metric names \['timing'\] are used"):
        metric_names(Named(), batch)
    with pytest.raises(ValueError, match=r"metric 'loss' of the task must be a scalar, not \(8,\)"):
        metric_names(Unreduced(), batch)


def test_parameters_are_counted(task):
    assert parameter_count(task.init(jax.random.key(0))) == 4 * 3 + 3 * 2 + 2
