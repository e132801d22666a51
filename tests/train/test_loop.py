import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from common.errors import UserError
from common.train import evaluate, fit, restore_params
from tests.train.toy import (
    At,
    Crash,
    NoProgress,
    ToySource,
    ToyTask,
    crash,
    curve,
    toy_config,
    without_timing,
)


def in_a_thread(function):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def in_an_event_loop(function):
    async def call():
        return function()

    return asyncio.run(call())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run: its folder and its result."""
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, fit(ToyTask(), toy_config(), workdir, progress=NoProgress())


def test_the_task_is_learnt(finished):
    workdir, result = finished
    losses = [record["loss"] for record in curve(workdir) if record["split"] == "train"]
    assert losses[-1] < 0.7 * losses[0]
    assert result["test"]["accuracy"] > 0.8


def test_the_record_has_every_interval_and_the_end(finished):
    workdir, _ = finished
    steps = {"train": [5, 10, 15, 20, 23], "validation": [7, 14, 21, 23], "test": [23]}
    records = curve(workdir)
    for split, expected in steps.items():
        assert [record["step"] for record in records if record["split"] == split] == expected
    train = next(record for record in records if record["split"] == "train")
    assert set(train) == {
        "step", "split", "loss", "accuracy", "gradient_norm", "learning_rate",
    }  # fmt: skip
    timing = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[1])["timing"]
    assert set(timing) <= {"steps_per_second", "examples_per_second", "elapsed_seconds"}


def test_the_folder_holds_what_was_promised(finished):
    workdir, result = finished
    assert {path.name for path in workdir.iterdir()} == {
        ".lock", "checkpoints", "config.json", "environment.json", "metrics.jsonl", "result.json",
        "tensorboard",
    }  # fmt: skip
    assert json.loads((workdir / "result.json").read_text()) == result
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"21", "23"}


def test_the_result_is_of_the_best_checkpoint(finished):
    workdir, result = finished
    step, params = restore_params(ToyTask(), toy_config(), workdir)
    assert step == result["best_step"]
    records = [record for record in curve(workdir) if record["split"] == "validation"]
    best = max(records, key=lambda record: (record["accuracy"], record["step"]))
    assert best == {"step": step, "split": "validation", **result["validation"]}
    assert evaluate(ToyTask(), params, ToyTask().eval_sources["test"], 10) == result["test"]
    assert result["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(params)) == 20


def test_a_chosen_checkpoint_can_be_read(finished):
    workdir, _ = finished
    step, params = restore_params(ToyTask(), toy_config(), workdir, step=23)
    assert step == 23
    assert params["head"]["kernel"].dtype == np.float32
    with pytest.raises(UserError, match=r"no checkpoint of step 2 in .* only of \[21, 23\]"):
        restore_params(ToyTask(), toy_config(), workdir, step=2)
    with pytest.raises(UserError, match="no folder .*checkpoints"):
        restore_params(ToyTask(), toy_config(), workdir / "nowhere")


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(finished, tmp_path):
    workdir, result = finished
    again = fit(ToyTask(), toy_config(), tmp_path / "again", progress=NoProgress())
    assert without_timing(again) == without_timing(result)
    assert curve(tmp_path / "again") == curve(workdir)
    other = toy_config()
    other.seed = 4
    fit(ToyTask(), other, tmp_path / "other", progress=NoProgress())
    assert curve(tmp_path / "other") != curve(workdir)


def test_a_finished_run_is_not_touched(finished):
    workdir, result = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    progress = At(1, crash)
    assert fit(ToyTask(), toy_config(), workdir, progress=progress) == result
    assert progress.messages == [f"{workdir} holds a finished run"]
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
    report = toy_config()
    report.report.images = 9
    assert fit(ToyTask(), report, workdir, progress=progress) == result


def test_another_config_is_refused(finished):
    workdir, _ = finished
    with pytest.raises(UserError, match="train.log_every was 5, now 6"):
        fit(ToyTask(), toy_config(log_every=6), workdir, progress=NoProgress())


def test_another_model_is_refused_by_name(tmp_path):
    with pytest.raises(Crash):
        fit(ToyTask(), toy_config(), tmp_path, progress=At(6, crash))
    with pytest.raises(UserError, match=r"params/head/kernel is float32\(3, 2\) in the checkpoint"):
        fit(ToyTask(hidden=4), toy_config(), tmp_path, progress=NoProgress())


def test_other_data_is_refused(tmp_path):
    with pytest.raises(Crash):
        fit(ToyTask(), toy_config(), tmp_path, progress=At(6, crash))
    with pytest.raises(UserError, match="had 50 examples, now 51"):
        fit(ToyTask(train_count=51), toy_config(), tmp_path, progress=NoProgress())
    other = ToyTask()
    other.train_source = ToySource(50, seed=9)
    with pytest.raises(UserError, match="learned from other data .fingerprint .*give it back"):
        fit(other, toy_config(), tmp_path, progress=NoProgress())


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (17, r"step 17 is not finite \(loss nan, .*examples 1, 33, .* checkpoint is of step 16"),
        (2, r"step 2 is not finite \(loss nan, .*; .* checkpoint is none"),
    ],
)
def test_a_run_that_diverges_is_stopped(tmp_path, step, message):
    class Diverging(ToyTask):
        bad_key: jax.Array

        def loss(self, params, batch, rng):
            loss, metrics = super().loss(params, batch, rng)
            bad = jax.numpy.all(rng == self.bad_key)
            return jax.numpy.where(bad, jax.numpy.nan, loss), metrics

    task = Diverging()
    key = jax.random.split(jax.random.key(toy_config().seed))[1]
    task.bad_key = jax.random.fold_in(key, step - 1)
    with pytest.raises(UserError, match=message):
        fit(task, toy_config(), tmp_path, progress=NoProgress())
    assert all(record["step"] < step for record in curve(tmp_path))


def test_scores_that_are_not_finite_stop_the_run(tmp_path):
    class Broken(ToyTask):
        def score(self, params, batch):
            return super().score(params, batch) | {"margin": batch["x"][:, 0] * np.inf}

    with pytest.raises(UserError, match="margin not finite on validation at step 7; .*of step 4"):
        fit(Broken(), toy_config(), tmp_path, progress=NoProgress())


@pytest.mark.parametrize("around", [in_a_thread, in_an_event_loop])
def test_it_runs_where_a_notebook_would_run_it(finished, tmp_path, around):
    result = around(lambda: fit(ToyTask(), toy_config(), tmp_path, progress=NoProgress()))
    assert without_timing(result) == without_timing(finished[1])


def test_mistakes_are_found_before_any_work(tmp_path):
    with pytest.raises(UserError, match="config.train.log_every is 0, expected 1 or more"):
        fit(ToyTask(), toy_config(log_every=0), tmp_path, progress=NoProgress())
    with pytest.raises(UserError, match="the train data has no examples"):
        fit(ToyTask(train_count=0), toy_config(), tmp_path, progress=NoProgress())
    assert list(tmp_path.iterdir()) == []
    task = ToyTask()
    del task.eval_sources["validation"]
    with pytest.raises(UserError, match="need 'validation' and no 'train', but are: test"):
        fit(task, toy_config(), tmp_path, progress=NoProgress())
    task = ToyTask()
    task.metric = "f1"
    with pytest.raises(ValueError, match="metric 'f1' is not one of"):
        fit(task, toy_config(), tmp_path, progress=NoProgress())
