"""Every Pathfinder config makes a step; the smoke config makes the whole road."""

import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from common.data.pathfinder import PathfinderSettings
from common.data.pathfinder.export import export
from common.errors import UserError
from common.train import fit, read_records
from experiments.cli import load_config
from experiments.models import make_model
from experiments.pathfinder import DEFAULT_CONFIG, evaluate, main, train_and_evaluate
from experiments.tasks.pathfinder import make_task
from tests.experiments.steps import step_shapes

VARIANTS = ("", "smoke", "conv_net", "reference", "paper")
TINY = {
    "data.train_count": 4,
    "data.validation_count": 2,
    "data.test_count": 2,
    "optim.warmup_steps": 1,
    "train.steps": 2,
    "train.batch_size": 2,
    "train.eval_batch_size": 2,
}


def variant(name):
    return f"{DEFAULT_CONFIG}:{name}"


@pytest.mark.parametrize("name", VARIANTS)
def test_every_config_makes_a_training_step_of_its_own_shapes(name):
    step_shapes(load_config(variant(name)))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_config_trains_and_scores(name, tmp_path):
    config = load_config(variant(name), {**TINY, "data.cache": str(tmp_path / "data")})
    result = train_and_evaluate(config, tmp_path / "run")
    assert result["step"] == 2
    assert result["test"]["count"] == 2
    assert np.isfinite(result["test"]["loss"])
    assert (tmp_path / "run" / "report" / "report.html").stat().st_size > 10_000


def without_times(records):
    return [{k: v for k, v in record.items() if k != "timing"} for record in records]


def test_smoke_run_is_the_same_twice_and_can_be_scored_again(tmp_path, capsys):
    overrides = {"data.cache": str(tmp_path / "data"), "train.steps": 24, "train.log_every": 4}
    overrides |= {"train.eval_every": 12, "train.checkpoint_every": 6}
    config = load_config(variant("smoke"), overrides)
    first = fit(make_task(config), config, tmp_path / "first")
    second = fit(make_task(config), config, tmp_path / "second")
    records = [
        without_times(read_records(tmp_path / run / "metrics.jsonl")) for run in ("first", "second")
    ]
    assert records[0] == records[1]
    assert len(records[0]) >= 6
    scores = evaluate(config, tmp_path / "first")
    assert scores["test"] == first["test"] == second["test"]
    assert "test" in capsys.readouterr().out


def test_command_line_runs_smoke_and_its_other_modes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = ["--workdir=run", "--config.train.steps=20", "--config.train.eval_every=10"]
    assert main([f"--config={variant('smoke')}", *run]) == 0
    assert main(["--mode=eval", "--workdir=run"]) == 0
    assert main(["--mode=report", "--workdir=run"]) == 0
    assert main(["--mode=replay", "--step=17", "--workdir=run"]) == 0
    assert np.load("run/replay_17.npz")["image"].shape == (32, 32, 32)
    assert (tmp_path / "run" / "replay_17.png").stat().st_size > 1000
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert f"accuracy={result['test']['accuracy']:.6g}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"model.name": "simple_csm"}, "model.name is 'simple_csm'; choose one of"),
        ({"model.cssm_type": "kqv"}, "model.cssm_type is 'kqv'; choose one of"),
        ({"model.pos_embed": "rope"}, "model.pos_embed is 'rope'; choose one of"),
        ({"model.dtype": "float16"}, "model.dtype is 'float16'; choose one of"),
        ({"data.layout": "equal"}, "data.layout is 'equal'; choose one of"),
        ({"data.window": 30.0}, "data.window is 30 with padding 6"),
        ({"data.train_count": 5}, "data.train_count is 5; it must be even"),
    ],
)
def test_wrong_values_are_named(override, message, tmp_path):
    config = load_config(variant("smoke"), {"data.cache": str(tmp_path), **override})
    with pytest.raises(UserError, match=message):
        make_task(config)


SIZES = {"act": "relu", "pool": "max", "dtype": "float32", "seq_len": 8}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "hgru", "embed_dim": 8, "kernel_size": 0, **SIZES}, "kernel_size is 0"),
        ({"name": "hgru", "embed_dim": 8, "kernel_size": 4, **SIZES}, "kernel_size is 4; expected"),
        ({"name": "hgru", "embed_dim": 8, "kernel_size": 3, **SIZES, "pool": "min"}, "pool is"),
        ({"name": "vit", "width": 6, "heads": 4, "patch": 4, "depth": 1, **SIZES}, "width is 6"),
        ({"name": "resnet", "widths": (), "blocks": 1, **SIZES}, r"widths is \(\); expected"),
        ({"name": "resnet", "widths": (8,), "blocks": 1, "dtype": "int8"}, "dtype is 'int8'"),
    ],
)
def test_values_that_a_baseline_refuses_are_named(fields, message):
    with pytest.raises(UserError, match=f"model.{message}"):
        make_model(ConfigDict(fields))


def test_unknown_variant_lists_the_known_ones():
    with pytest.raises(UserError, match="'smok' is unknown; choose one of .*smoke"):
        load_config(variant("smok"))


def test_a_run_learns_from_files_and_is_scored_on_other_files(tmp_path, capsys):
    data = {"window": 75.0, "padding": 6.0, "seed_distance": 12.0, "distractors": 3}
    settings = PathfinderSettings(image_size=32, contour_length=3, **data)
    counts = {"train": 40, "validation": 20, "test": 20}
    made = export(settings, counts, tmp_path, "tfrecord", workers=0)
    other = export(settings, {"test": 24}, tmp_path / "other", "png", seed=1, workers=0)
    source = [
        "--config.data.source=tfrecord",
        f"--config.data.path={made}",
        *(f"--config.data.{split}_count=-1" for split in counts),
    ]
    workdir = f"--workdir={tmp_path / 'run'}"
    steps = [
        "--config.train.steps=4",
        "--config.train.batch_size=8",
        "--config.optim.warmup_steps=1",
    ]
    assert main([f"--config={variant('smoke')}", workdir, *source, *steps]) == 0
    capsys.readouterr()
    elsewhere = [
        "--config.data.source=folder",
        f"--config.data.path={other / 'test'}",
        "--config.data.train_count=0",
        "--config.data.validation_count=0",
        "--config.data.test_count=-1",
    ]
    assert main(["--mode=eval", workdir, *elsewhere]) == 0
    shown = capsys.readouterr().out
    assert "test" in shown and "accuracy=" in shown and "validation" not in shown
