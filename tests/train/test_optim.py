import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from common.errors import UserError
from common.train import make_optimizer, make_schedule


def config(**changes):
    defaults = {
        "learning_rate": 2e-3,
        "final_fraction": 0.1,
        "warmup_steps": 10,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
    }
    return ConfigDict(defaults | changes)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_end():
    schedule = make_schedule(config(), steps=110)
    rates = np.array([schedule(step) for step in range(111)])
    np.testing.assert_allclose(rates[[0, 5, 10, 60, 110]], [0, 1e-3, 2e-3, 1.1e-3, 2e-4], rtol=1e-5)
    assert (np.diff(rates[:11]) > 0).all()
    assert (np.diff(rates[10:]) < 0).all()


def test_without_warm_up_the_first_step_has_the_full_rate():
    schedule = make_schedule(config(warmup_steps=0, final_fraction=0.0), steps=20)
    np.testing.assert_allclose([schedule(0), schedule(20)], [2e-3, 0], atol=1e-9)


def test_the_gradient_is_clipped_before_adam_and_all_parameters_decay():
    optimizer, schedule = make_optimizer(config(warmup_steps=0), steps=20)
    params = {"w": jnp.array([1.0, -2.0])}
    state = optimizer.init(params)
    small, large = ({"w": jnp.array([3.0, 4.0]) * scale} for scale in (0.2, 1000.0))
    updates = [optimizer.update(gradient, state, params) for gradient in (small, large)]
    np.testing.assert_array_equal(updates[0][0]["w"], updates[1][0]["w"])
    np.testing.assert_allclose(optax.tree.get(updates[1][1], "mu")["w"], [0.06, 0.08], rtol=1e-5)
    rate = float(schedule(0))
    np.testing.assert_allclose(
        updates[0][0]["w"], -rate * (np.ones(2) + 0.01 * params["w"]), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "config.optim.learning_rate is 0.0, expected a positive number"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"final_fraction": 1.5}, "final_fraction is 1.5, expected between 0 and 1"),
        ({"warmup_steps": 20}, "warmup_steps is 20, expected from 0 to 19 steps"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1, expected 0 or more"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0, expected positive"),
    ],
)
def test_a_value_out_of_range_is_named(change, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(config(**change), steps=20)
