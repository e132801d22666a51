"""One process at a time in a folder, and what ends with a folder that fails."""

import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys

import pytest

from common.errors import UserError
from common.train import RunLock, fit, require_free
from tests.train.toy import At, Crash, NoProgress, ToyTask, crash, curve, toy_config

HOLD = """
import os, sys, time
from pathlib import Path
from common.train.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path, pytestconfig):
    environment = os.environ | {"PYTHONPATH": str(pytestconfig.rootpath)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path, holder):
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    message = f"in use by process {holder.pid} on .* since "
    for attempt in (
        lambda: fit(ToyTask(), toy_config(), tmp_path, progress=NoProgress()),
        lambda: require_free(tmp_path),
    ):
        with pytest.raises(UserError, match=message):
            attempt()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    require_free(tmp_path)
    with RunLock(tmp_path) as lock:
        assert lock.held
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_the_lock_ends_with_the_block_and_holds_within_a_process(tmp_path):
    with RunLock(tmp_path), pytest.raises(UserError, match=f"in use by process {os.getpid()} on"):
        with RunLock(tmp_path):
            pass
    with RunLock(tmp_path):
        pass
    require_free(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    progress = At(1, crash)
    with pytest.raises(Crash):
        fit(ToyTask(), toy_config(), tmp_path, progress=progress)
    assert "cannot be locked" in progress.messages[0]


@pytest.mark.parametrize("by_a_file", [False, True])
def test_a_folder_that_vanishes_ends_the_run(tmp_path, by_a_file):
    workdir = tmp_path / "run"

    def vanish():
        workdir.rename(tmp_path / "elsewhere")
        if by_a_file:
            workdir.write_text("")

    with pytest.raises(UserError, match=f"workdir {workdir} has vanished"):
        fit(ToyTask(), toy_config(), workdir, progress=At(10, vanish))


def test_a_full_disk_ends_the_run_and_more_room_lets_it_go_on(tmp_path):
    fit(ToyTask(), toy_config(), tmp_path / "whole", progress=NoProgress())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))

    try:
        with pytest.raises(UserError, match=r"cannot write .*: File too large; the checkpoints"):
            fit(ToyTask(), toy_config(), tmp_path / "full", progress=At(11, fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    fit(ToyTask(), toy_config(), tmp_path / "full", progress=NoProgress())
    assert curve(tmp_path / "full") == curve(tmp_path / "whole")
    names = {path.name for path in (tmp_path / "full" / "checkpoints").iterdir()}
    assert names == {path.name for path in (tmp_path / "whole" / "checkpoints").iterdir()}
