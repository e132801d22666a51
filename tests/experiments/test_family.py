"""The family on one task: every model steps, differs in its model alone, and gets its row."""

import functools
import json
import statistics
from pathlib import Path

import pytest

from common.errors import UserError
from common.train.state import parameter_count
from cssm.simple import BLOCKS
from experiments.cli import load_config
from experiments.configs.family import BASELINES, MODELS, READOUTS, SEEDS, TABLE
from experiments.models.vision import MODELS as BUILDERS
from experiments.reports.family import main
from tests.experiments.steps import step_shapes

FILE = Path("experiments/configs/family.py").absolute()
ACCURACIES = {"gdn": (0.8, 0.9, 0.85), "hgru": (0.95, 0.96, 0.97), "no_fft": (0.5, 0.49, 0.5)}


def config_of(name):
    return load_config(f"{FILE}:{name}")


@functools.cache
def shapes_after_a_step(name):
    return step_shapes(config_of(name))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_makes_a_training_step(name):
    shapes_after_a_step(name)


def test_the_family_is_all_there_is():
    assert {name for name in MODELS if name not in BASELINES} == set(BLOCKS)
    assert set(BASELINES) == set(BUILDERS) - {"simple_cssm"}
    assert set(TABLE) | set(READOUTS) == set(MODELS) and not set(TABLE) & set(READOUTS)


def test_baselines_have_about_as_many_parameters():
    whole = parameter_count(shapes_after_a_step("transformer").params)
    for name in BASELINES:
        assert abs(parameter_count(shapes_after_a_step(name).params) / whole - 1) < 0.06, name


def test_configs_differ_in_the_model_alone():
    first = config_of("transformer").to_dict()
    for name in MODELS:
        other = config_of(name).to_dict()
        assert {key for key in first if first[key] != other[key]} <= {"model"}


@pytest.mark.parametrize("name", ["", "transfomer"])
def test_unknown_models_are_named(name):
    with pytest.raises(UserError, match=f"variant '{name}' is unknown; choose one of transformer,"):
        config_of(name)


@pytest.fixture
def runs(tmp_path):
    """A folder of nine finished runs, of three models."""
    for model, accuracies in ACCURACIES.items():
        for seed, accuracy in zip(SEEDS, accuracies, strict=True):
            write_run(tmp_path / f"{model}-{seed}", model, seed, accuracy)
    return tmp_path


def write_run(folder, model, seed, accuracy):
    config = config_of(model).to_dict() | {"seed": seed}
    environment = {"cpu": "Abacus", "cpu_cores": 2, "packages": {"jax": "1.2"}}
    environment["start_time"] = f"2026-11-2{seed}T10:00:00+00:00"
    result = {"parameters": 1000, "test": {"accuracy": accuracy, "count": 4000}}
    folder.mkdir()
    for name, content in {"config": config, "environment": environment, "result": result}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    rates = [None, 100.0, 50.0, 20.0]  # 10, 20, 50 ms
    records = [{"split": "train", "timing": {"steps_per_second": rate}} for rate in rates]
    records.append({"split": "validation", "timing": {}})
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)


def test_table_has_the_best_model_first(runs, tmp_path, capsys):
    out = tmp_path / "table.md"
    flags = [str(runs), "--models=no_fft,gdn,hgru"]
    assert main(flags) == 0
    assert main([*flags, f"--out={out}"]) == 0
    table = out.read_text()
    assert capsys.readouterr().out == table
    lines = table.splitlines()
    deviation = 100 * statistics.stdev(ACCURACIES["gdn"])
    assert [line.split("`")[1] for line in lines[2:5]] == ["hgru", "gdn", "no_fft"]
    assert lines[3] == f"| `gdn` | 1,000 | 85.0 ± {deviation:.1f} % | 80.0 to 90.0 % | 20 |"
    train = config_of("gdn").train
    images = f"{train.steps * train.batch_size:,} training and 4,000 test images"
    assert lines[-1].startswith(f"3 seeds; {images}; 2 cores of Abacus")
    assert "jax 1.2; 2026-11-20 to 2026-11-22" in lines[-1]


def test_missing_runs_are_named_in_one_line(runs, capsys):
    (runs / "gdn-1" / "result.json").unlink()
    (runs / "hgru-2" / "result.json").unlink()
    assert main([str(runs), "--models=gdn,hgru"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {runs} lacks 2 runs (model and seed): gdn 1, hgru 2\n"
    assert main([str(runs)]) == 2
    assert f"lacks {3 * len(TABLE) - 7} runs" in capsys.readouterr().err


def test_runs_that_cannot_be_compared_are_refused(runs, capsys):
    write_run(runs / "again", "gdn", 1, 0.9)
    assert main([str(runs)]) == 2
    assert "are of one model and seed" in capsys.readouterr().err
    config = config_of("gdn").to_dict() | {"seed": 4}
    config["train"]["steps"] = 7
    (runs / "again" / "config.json").write_text(json.dumps(config))
    assert main([str(runs)]) == 2
    error = capsys.readouterr().err
    assert "train.steps was" in error and error.count("\n") == 1


def test_no_folder(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
