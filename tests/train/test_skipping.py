"""Steps that are not finite are left out or end the run, and can be made again."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from common.data.pipeline import gather, training_batches, training_indices
from common.errors import UserError
from common.train import fit, make_init, make_train_step, metric_names, replay
from common.train.skipping import CHECK_EVERY, Skips, SkipWatch, nonfinite_names
from tests.train.toy import At, Crash, NoProgress, ToyTask, crash, curve, toy_config


class Poisoned(ToyTask):
    """A task whose loss is NaN where one of some points is in the batch."""

    def __init__(self, *numbers):
        super().__init__()
        self.points = jnp.asarray(self.train_source.x[list(numbers)])

    def loss(self, params, batch, rng):
        loss, metrics = super().loss(params, batch, rng)
        same = (batch["x"][:, None] == self.points[None]).all(-1)
        return jnp.where(same.any(), jnp.nan, loss), metrics


def steps_with(number):
    """Returns the steps of the toy run that learn from an example."""
    config = toy_config()
    size = (50, config.train.batch_size, config.seed)
    return [s for s in range(1, 24) if number in training_indices(*size, s - 1)]


def make_states(task, limit, batches):
    optimizer = optax.adam(0.1)
    step = make_train_step(task, optimizer, 3, limit)
    state = make_init(task, optimizer, metric_names(task, batches[0]))(jax.random.key(0))
    states = []
    for batch in batches:
        state = step(state, batch)
        states.append(jax.device_get(state.replace(rng=None)))
    return states


def test_a_skipped_step_changes_nothing_but_the_counts():
    task = Poisoned(12)
    good, bad = gather(task.train_source, np.arange(8)), gather(task.train_source, np.arange(8, 16))
    first, second, third, fourth = make_states(task, 1, [good, bad, good, bad])
    for name in ("params", "opt_state", "totals"):
        same = jax.tree.map(np.array_equal, getattr(first, name), getattr(second, name))
        assert all(jax.tree.leaves(same)), name
    assert (second.step, second.skips.count, second.skips.step, second.skips.recent) == (2, 1, 2, 1)
    assert np.isnan(second.skips.loss)
    assert not np.array_equal(third.params["head"]["bias"], second.params["head"]["bias"])
    assert third.totals["loss"] > second.totals["loss"] > 0
    assert (fourth.skips.count, fourth.skips.recent) == (2, 1)
    assert not nonfinite_names(fourth.params)


def test_after_too_many_nothing_changes_any_more():
    task = Poisoned(12)
    good, bad = gather(task.train_source, np.arange(8)), gather(task.train_source, np.arange(8, 16))
    *_, last, after = make_states(task, 1, [bad, bad, good])
    assert (after.skips.count, after.skips.step, after.step) == (2, 2, 3)
    same = jax.tree.map(np.array_equal, after.params, last.params)
    assert all(jax.tree.leaves(same))


def test_the_watch_is_late_and_does_not_miss():
    watch = SkipWatch()
    skips = [Skips.none().replace(count=jnp.int32(step >= 7)) for step in range(20)]
    heard = [step for step in range(1, 20) if watch.count(step, skips[step])]
    assert heard == [15]
    assert heard[0] - 7 <= 2 * CHECK_EVERY


def test_skipped_steps_stand_in_the_record_and_the_rest_is_finite(tmp_path):
    config = toy_config(max_skipped_steps=5)
    progress = At(0, crash)
    result = fit(Poisoned(12), config, tmp_path, progress=progress)
    skipped = [record.get("skipped_steps", 0) for record in curve(tmp_path)]
    assert sum(skipped) == len(steps_with(12)) >= 3
    assert np.isfinite(result["test"]["loss"])
    assert any("is not finite (loss nan" in message for message in progress.messages)


def test_a_resumed_run_skips_the_same_steps(tmp_path):
    config = toy_config(max_skipped_steps=5)
    fit(Poisoned(12), config, tmp_path / "whole", progress=NoProgress())
    with pytest.raises(Crash):
        fit(Poisoned(12), config, tmp_path / "cut", progress=At(15, crash))
    fit(Poisoned(12), config, tmp_path / "cut", progress=NoProgress())
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


def test_one_too_many_ends_the_run_and_can_be_made_again(tmp_path):
    steps, config = steps_with(12), toy_config(max_skipped_steps=1)
    with pytest.raises(UserError, match=f"step {steps[1]} is not finite .*; 2 steps were not"):
        fit(Poisoned(12), config, tmp_path, progress=NoProgress())
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    found = replay(Poisoned(12), config, tmp_path, steps[1])
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
    assert 12 in found.indices and 0 < found.start < steps[1]
    assert np.isnan(found.metrics["loss"])
    assert set(found.gradient_norms) == {"head", "hidden"}
    np.testing.assert_array_equal(found.batch["x"], ToyTask().train_source.x[found.indices])
    with pytest.raises(UserError, match="--step: there is no step 24; expected 1 to 23"):
        replay(Poisoned(12), config, tmp_path, 24)


def test_a_step_made_again_is_that_of_the_run(tmp_path):
    config = toy_config(log_every=1, keep_last=1)
    fit(ToyTask(), config, tmp_path, progress=NoProgress())
    for step in (1, 22):
        recorded = next(r for r in curve(tmp_path) if (r["step"], r["split"]) == (step, "train"))
        found = replay(ToyTask(), config, tmp_path, step)
        assert found.metrics["loss"] == pytest.approx(recorded["loss"], rel=1e-6)
        batches = training_batches(ToyTask().train_source, 8, config.seed, step - 1)
        np.testing.assert_array_equal(next(batches)["x"], found.batch["x"])
        batches.close()


def test_parameters_that_overflow_are_never_saved(tmp_path):
    config = toy_config(log_every=50, eval_every=50, checkpoint_every=1)
    config.optim.update(learning_rate=1e38, warmup_steps=0, weight_decay=1e3)
    with pytest.raises(UserError, match="params/.* not finite after step 1; .* is none"):
        fit(ToyTask(), config, tmp_path, progress=NoProgress())
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_negative_limit_is_refused(tmp_path):
    with pytest.raises(UserError, match="config.train.max_skipped_steps is -1, expected 0 or more"):
        fit(ToyTask(), toy_config(max_skipped_steps=-1), tmp_path, progress=NoProgress())
