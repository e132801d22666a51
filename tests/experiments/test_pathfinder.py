"""Every Pathfinder config makes a step; runs repeat themselves; wrong values are named."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from common.errors import UserError
from common.train import fit, read_records
from experiments.cli import load_config
from experiments.models.vision import make_model
from experiments.pathfinder import DEFAULT_CONFIG, RUNS, train_and_evaluate
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


LONG = [pytest.param(name, marks=pytest.mark.slow) for name in ("", "paper", "reference")]


@pytest.mark.parametrize("name", ["conv_net", *LONG])
def test_every_config_trains_and_scores(name, tmp_path):
    """What the smoke config does is tested at the command line."""
    config = load_config(variant(name), {**TINY, "data.cache": str(tmp_path / "data")})
    result = fit(make_task(config), config, tmp_path / "run")
    assert result["step"] == 2
    assert result["test"]["count"] == 2
    assert np.isfinite(result["test"]["loss"])


def test_a_run_of_a_convolutional_net_ends_with_its_report(tmp_path):
    config = load_config(variant("conv_net"), {**TINY, "data.cache": str(tmp_path / "data")})
    train_and_evaluate(config, tmp_path / "run")
    assert (tmp_path / "run" / "report" / "report.html").stat().st_size > 10_000


def without_times(records):
    return [{k: v for k, v in record.items() if k != "timing"} for record in records]


@pytest.mark.slow
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
    scores = RUNS.evaluate(config, tmp_path / "first")
    assert scores["test"] == first["test"] == second["test"]
    assert "test" in capsys.readouterr().out


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


def test_a_mesh_that_does_not_fit_is_told_before_any_image_is_drawn(tmp_path):
    fields = {"mesh.data": 99, "data.cache": str(tmp_path / "data")}
    config = load_config(variant("smoke"), fields)
    with pytest.raises(UserError, match=r"config.mesh \(data 99\) asks for 99 devices"):
        train_and_evaluate(config, tmp_path / "run")
    assert not (tmp_path / "data").exists()
