"""The command line makes the whole road with the smoke config, also with files as data."""

import json

import numpy as np

from common.data.pathfinder import PathfinderSettings
from common.data.pathfinder.export import export
from experiments.pathfinder import DEFAULT_CONFIG, main


def test_command_line_runs_smoke_and_its_other_modes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = ["--workdir=run", "--config.train.steps=20", "--config.train.eval_every=10"]
    assert main([f"--config={DEFAULT_CONFIG}:smoke", *run]) == 0
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    typed = ["python", "-m", "experiments.pathfinder", f"--config={DEFAULT_CONFIG}:smoke", *run]
    assert environment["command"] == typed
    assert main(["--mode=eval", "--workdir=run"]) == 0
    assert main(["--mode=report", "--workdir=run"]) == 0
    assert main(["--mode=replay", "--step=17", "--workdir=run"]) == 0
    assert np.load("run/replay_17.npz")["image"].shape == (32, 32, 32)
    assert (tmp_path / "run" / "replay_17.png").stat().st_size > 1000
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    page = tmp_path / "run" / "report" / "report.html"
    assert page.stat().st_size > 10_000 and " ".join(typed) in page.read_text()
    assert f"accuracy={result['test']['accuracy']:.6g}" in capsys.readouterr().out


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
    assert main([f"--config={DEFAULT_CONFIG}:smoke", workdir, *source, *steps]) == 0
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
