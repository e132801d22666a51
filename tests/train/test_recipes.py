"""What a task or a config may add: rates by parameter, averages, parts, an early end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import UserError
from common.train import (
    fit,
    make_init,
    make_optimizer,
    make_train_step,
    metric_names,
    replay,
    restore_params,
)
from common.train.averaging import ParameterAverage, scored_params
from tests.train.toy import At, Crash, NoProgress, ToyTask, crash, curve, toy_config


class ScaledTask(ToyTask):
    """Learns its head at half the rate, and its hidden layer not at all."""

    def learning_rate_scales(self, params):
        return {name: jax.tree.map(lambda _, s=s: s, params[name]) for name, s in self.scales()}

    def scales(self):
        return (("head", 0.5), ("hidden", 0.0))


class ChangingTask(ToyTask):
    """Minimises (1 + step) times the loss."""

    def loss_at(self, params, batch, rng, step):
        loss, metrics = self.loss(params, batch, rng)
        return loss * (1.0 + step), metrics


class Stuck(ToyTask):
    """Scores ever less."""

    def score(self, params, batch):
        scores = super().score(params, batch)
        weight = jnp.abs(params["head"]["kernel"]).mean()
        return scores | {"accuracy": jnp.broadcast_to(-weight, scores["loss"].shape)}


class Still(ToyTask):
    """Has a loss without noise."""

    def loss(self, params, batch, rng):
        scores = self.score(params, batch)
        return scores["loss"].mean(), {"accuracy": scores["accuracy"].mean()}


def stepped(task, config, steps=1, **options):
    """Returns the states before and after some steps on one batch."""
    scales = getattr(task, "learning_rate_scales", None)
    optimizer, _ = make_optimizer(config.optim, 20, scales)
    batch = task.train_source.__getitems__(np.arange(8))
    init = make_init(task, optimizer, metric_names(task, batch))
    step = make_train_step(task, optimizer, 5, **options)
    before = init(jax.random.key(0))
    kept = jax.tree.map(jnp.copy, before.params)
    states = []
    for _ in range(steps):
        before = step(before, batch)
        states.append(jax.tree.map(jnp.copy, before.replace(rng=None)))
    return kept, states


def config(**optim):
    made = toy_config()
    made.optim.warmup_steps = 0
    made.optim.update(optim)
    return made


def test_rates_scale_updates_and_zero_freezes_without_state():
    start, (plain,) = stepped(Still(), config(clip_norm=1e9))
    same, (scaled,) = stepped(type("T", (ScaledTask, Still), {})(), config(clip_norm=1e9))
    jax.tree.map(np.testing.assert_array_equal, start, same)
    moved = plain.params["head"]["kernel"] - start["head"]["kernel"]
    np.testing.assert_allclose(
        scaled.params["head"]["kernel"] - start["head"]["kernel"], 0.5 * moved, rtol=1e-4
    )
    np.testing.assert_array_equal(scaled.params["hidden"]["kernel"], start["hidden"]["kernel"])
    shapes = [leaf.shape for leaf in jax.tree.leaves(scaled.opt_state)]
    assert start["head"]["kernel"].shape in shapes
    assert start["hidden"]["kernel"].shape not in shapes


def test_an_objective_may_change_with_the_step():
    _, states = stepped(ChangingTask(), config(learning_rate=1e-12), steps=3)
    _, plain = stepped(ToyTask(), config(learning_rate=1e-12), steps=3)
    sums = [[float(s.totals["loss"]) for s in run] for run in (states, plain)]
    wanted = np.diff(sums[1], prepend=0) * [1, 2, 3]
    np.testing.assert_allclose(np.diff(sums[0], prepend=0), wanted, rtol=1e-4)


def test_a_replay_shows_the_loss_of_its_step(tmp_path):
    made = toy_config(steps=4)
    fit(ChangingTask(), made, tmp_path, progress=NoProgress())
    found = replay(ChangingTask(), made, tmp_path, 3)
    total = 4 * next(r for r in curve(tmp_path) if r["split"] == "train")["loss"]
    others = [replay(ChangingTask(), made, tmp_path, n).metrics["loss"] for n in (1, 2, 4)]
    np.testing.assert_allclose(found.metrics["loss"], total - sum(others), rtol=1e-4)


def test_parts_of_a_batch_give_the_gradient_of_the_whole():
    _, (whole,) = stepped(Still(), config())
    _, (parts,) = stepped(Still(), config(), accumulate=4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole.params, parts.params
    )
    for name, total in whole.totals.items():
        np.testing.assert_allclose(parts.totals[name], total, rtol=1e-5)


def test_every_part_has_its_own_randomness():
    """With one key for all, equal parts of a batch would have the same noise as one of them."""
    task = ToyTask()
    one = task.train_source.__getitems__(np.zeros(2, int))
    double = {name: np.concatenate([x, x]) for name, x in one.items()}
    optimizer, _ = make_optimizer(config().optim, 20)
    init = make_init(task, optimizer, metric_names(task, one))
    losses = []
    for batch, accumulate in ((one, 1), (double, 2)):
        step = make_train_step(task, optimizer, 5, accumulate=accumulate)
        losses.append(float(step(init(jax.random.key(0)), batch).totals["loss"]))
    assert abs(losses[0] - losses[1]) > 1e-4


def test_the_average_follows_its_formula_and_is_what_is_scored(tmp_path):
    start, states = stepped(ToyTask(), config(average_decay=0.3), steps=4)
    average = start
    for count, state in enumerate(states, 1):
        keep = min(0.3, (1 + count) / (10 + count))
        average = jax.tree.map(lambda a, p, k=keep: k * a + (1 - k) * p, average, state.params)
        assert isinstance(scored_params(state), dict)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), scored_params(state), average
        )
    assert any(isinstance(s, ParameterAverage) for s in states[0].opt_state)
    made = toy_config(keep_last=3)
    made.optim.average_decay = 0.9
    result = fit(ToyTask(), made, tmp_path, progress=NoProgress())
    best, params = restore_params(ToyTask(), made, tmp_path)
    assert best == result["best_step"]
    scores = ToyTask().score(
        params, ToyTask().eval_sources["validation"].__getitems__(np.arange(23))
    )
    np.testing.assert_allclose(scores["loss"].mean(), result["validation"]["loss"], rtol=1e-5)


@pytest.mark.parametrize("decay", [1.0, -0.5])
def test_an_average_that_cannot_be(decay):
    with pytest.raises(UserError, match="average_decay is"):
        make_optimizer(config(average_decay=decay).optim, 20)


def test_a_run_that_gets_no_better_ends_early(tmp_path):
    made = toy_config(steps=60, eval_every=4, patience=2)
    progress = At(0, lambda: None)
    result = fit(Stuck(), made, tmp_path, progress=progress)
    scored = [r for r in curve(tmp_path) if r["split"] == "validation"]
    assert result["step"] == scored[-1]["step"] < 60
    values = [r["accuracy"] for r in scored]
    assert max(values[-2:]) <= max(values[:-2])
    assert all(max(values[:n]) > max(values[: n - 2]) for n in range(3, len(values)))
    assert "no better for 2 validations; done" in progress.messages
    assert fit(Stuck(), made, tmp_path, progress=NoProgress()) == result


@pytest.mark.slow
def test_an_early_end_is_the_same_after_a_stop(tmp_path):
    made = toy_config(steps=60, eval_every=4, patience=2)
    whole = fit(Stuck(), made, tmp_path / "whole", progress=NoProgress())
    last = whole["step"]
    for step in (last - 1, last):
        folder = tmp_path / str(step)
        with pytest.raises(Crash):
            fit(Stuck(), made, folder, progress=At(step, crash))
        again = fit(Stuck(), made, folder, progress=NoProgress())
        assert again["step"] == last and again["validation"] == whole["validation"]
        assert curve(folder) == curve(tmp_path / "whole")


@pytest.mark.parametrize("parts", [0, 3])
def test_a_batch_needs_equal_parts(tmp_path, parts):
    with pytest.raises(UserError, match=f"accumulate is {parts}, expected a divisor of the batch"):
        fit(ToyTask(), toy_config(accumulate=parts), tmp_path)
