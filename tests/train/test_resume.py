"""A run that is stopped anywhere, in any way, ends with the same bits as one that is not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.checkpoints import CheckpointManager, SaveError
from common.errors import UserError
from common.train import Preempted, fit
from tests.train.toy import (
    At,
    Crash,
    NoProgress,
    ToyTask,
    crash,
    curve,
    terminate,
    toy_config,
    without_timing,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    result = fit(ToyTask(), toy_config(), workdir, progress=NoProgress())
    return without_timing(result), curve(workdir)


def assert_ends_alike(workdir, uninterrupted):
    result = fit(ToyTask(), toy_config(), workdir, progress=NoProgress())
    assert (without_timing(result), curve(workdir)) == uninterrupted


SLOW = [pytest.param(step, marks=pytest.mark.slow) for step in (7, 18)]


@pytest.mark.parametrize("step", [1, 5, 23, *SLOW])
def test_after_sigterm(uninterrupted, tmp_path, step):
    with pytest.raises(Preempted, match=f"stopped at step {step}; run the same command to go on"):
        fit(ToyTask(), toy_config(), tmp_path, progress=At(step, terminate))
    assert (tmp_path / "checkpoints" / str(step)).is_dir()
    assert_ends_alike(tmp_path, uninterrupted)


@pytest.mark.parametrize("step", [2, 9])
def test_after_an_exception(uninterrupted, tmp_path, step):
    with pytest.raises(Crash):
        fit(ToyTask(), toy_config(), tmp_path, progress=At(step, crash))
    assert_ends_alike(tmp_path, uninterrupted)


def test_after_many_stops(uninterrupted, tmp_path):
    for step in (3, 4, 11, 15, 21):
        with pytest.raises((Preempted, Crash)):
            fit(
                ToyTask(),
                toy_config(),
                tmp_path,
                progress=At(step, crash if step % 2 else terminate),
            )
    assert_ends_alike(tmp_path, uninterrupted)


class StopsWhileScoring(ToyTask):
    """Sends SIGTERM when the source `name` is read for the `reading`-th time."""

    def __init__(self, name, reading):
        super().__init__()
        source = self.eval_sources[name]
        countdown = iter(range(reading, -1000, -1))

        class Stopping(type(source)):
            def __getitem__(self, index):
                if next(countdown) == 0:
                    terminate()
                return super().__getitem__(index)

            __getitems__ = None

        source.__class__ = Stopping


@pytest.mark.parametrize(
    ("name", "reading", "step"), [("validation", 12 + 35, 14), ("test", 5, 23)]
)
def test_after_sigterm_while_scoring(uninterrupted, tmp_path, name, reading, step):
    with pytest.raises(Preempted, match=f"stopped at step {step}"):
        fit(StopsWhileScoring(name, reading), toy_config(), tmp_path, progress=NoProgress())
    assert not (tmp_path / "result.json").exists()
    assert_ends_alike(tmp_path, uninterrupted)


KILLED = """
import os, signal, sys
import tests.conftest  # the same devices as here
from common.train import fit
from tests.train.toy import At, ToyTask, toy_config
fit(ToyTask(), toy_config(), sys.argv[1],
    progress=At(int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL)))
"""


def test_after_kill_9(uninterrupted, tmp_path, compilation_folder):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(compilation_folder),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # the same programs as here
    }
    for step in (8, 16):  # checkpoints are being written just then
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(tmp_path), str(step)],
            env=environment,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 1')  # what a kill in the middle of a write leaves
    assert_ends_alike(tmp_path, uninterrupted)
    assert all(path.name.isdigit() for path in (tmp_path / "checkpoints").iterdir())


def damage(folder):
    """Changes one bit in the middle of the array data of a checkpoint."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    file = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_after_damage_to_the_newest_checkpoint(uninterrupted, tmp_path):
    with pytest.raises(Preempted):
        fit(ToyTask(), toy_config(), tmp_path, progress=At(18, terminate))
    damage(tmp_path / "checkpoints" / "18")
    progress = At(23, lambda: None)
    result = fit(ToyTask(), toy_config(), tmp_path, progress=progress)
    assert (without_timing(result), curve(tmp_path)) == uninterrupted
    assert "checkpoints/18 is damaged: " in progress.messages[0]
    assert (tmp_path / "checkpoints" / "damaged" / "18").is_dir()
    (session,) = json.loads((tmp_path / "environment.json").read_text())["resumed"]
    assert session["step"] == 16 and list(session["damaged_checkpoints"]) == ["18"]


def test_a_run_without_a_good_checkpoint_never_starts_anew(tmp_path):
    with pytest.raises(Preempted):
        fit(ToyTask(), toy_config(), tmp_path, progress=At(5, terminate))
    record = (tmp_path / "metrics.jsonl").read_bytes()
    for step in ("4", "5"):
        damage(tmp_path / "checkpoints" / step)
    for names in ("step 5: .*step 4: ", "damaged: 4, 5; put back"):
        with pytest.raises(UserError, match=f"every checkpoint of the run is damaged .*{names}"):
            fit(ToyTask(), toy_config(), tmp_path, progress=NoProgress())
    assert (tmp_path / "metrics.jsonl").read_bytes() == record


def test_lost_records_are_told(tmp_path):
    with pytest.raises(Preempted):
        fit(ToyTask(), toy_config(), tmp_path, progress=At(11, terminate))
    (tmp_path / "metrics.jsonl").write_text("")
    progress = At(12, crash)
    with pytest.raises(Crash):
        fit(ToyTask(), toy_config(), tmp_path, progress=progress)
    assert f"{tmp_path / 'metrics.jsonl'} has lost 3 records" in progress.messages


def test_a_checkpoint_of_another_config_is_refused(tmp_path):
    with pytest.raises(Preempted):
        fit(ToyTask(), toy_config(), tmp_path, progress=At(5, terminate))
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="is of another config: train.log_every was 5, now 6"):
        fit(ToyTask(), toy_config(log_every=6), tmp_path, progress=NoProgress())


@pytest.fixture
def one_save_fails(monkeypatch):
    """Lets the first save of a chosen step fail."""
    save, left = CheckpointManager.save, []

    def failing(self, step, *arguments, **options):
        if step in left:
            left.remove(step)
            raise SaveError(step, OSError("No space left on device"))
        save(self, step, *arguments, **options)

    monkeypatch.setattr(CheckpointManager, "save", failing)
    return left.append


def test_a_failed_save_is_told_and_training_goes_on(uninterrupted, tmp_path, one_save_fails):
    one_save_fails(8)
    progress = At(11, crash)
    with pytest.raises(Crash):
        fit(ToyTask(), toy_config(), tmp_path, progress=progress)
    *_, message = progress.messages
    assert message == (
        "checkpoint of step 8 was not written: No space left on device; training goes on; "
        "the last good checkpoint is of step 7"
    )
    assert_ends_alike(tmp_path, uninterrupted)


def test_scores_whose_save_failed_stand_once(uninterrupted, tmp_path, one_save_fails):
    one_save_fails(14)
    with pytest.raises(Preempted, match="stopped at step 14"):
        fit(ToyTask(), toy_config(), tmp_path, progress=At(14, terminate))
    assert_ends_alike(tmp_path, uninterrupted)


def test_a_run_whose_last_save_failed_says_so(uninterrupted, tmp_path, one_save_fails):
    one_save_fails(23)
    with pytest.raises(UserError, match="the state of step 23 could not be saved in .* of step 21"):
        fit(ToyTask(), toy_config(), tmp_path, progress=NoProgress())
    assert_ends_alike(tmp_path, uninterrupted)
