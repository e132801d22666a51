"""Two processes that are one run, on loopback: their numbers, the loss of one, signals."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.train import NoProgress, fit
from experiments import pathfinder
from tests.train import one_of_several
from tests.train.toy import ToyTask, assert_alike, curve, toy_config

DEVICES = 8
LIMIT = 60.0
"""Seconds in which the others of a killed process have to end."""

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Pair:
    """Two processes with two devices each."""

    def __init__(self, workdir: Path, ends: str):
        port = free_port()
        command = [sys.executable, "-m", "tests.train.one_of_several", f"--workdir={workdir}"]
        command += [f"--config={one_of_several.__file__}:{ends}", "--distributed"]
        command += [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "JAX_NUM_CPU_DEVICES": "2",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }
        self.processes = [
            subprocess.Popen(
                [*command, f"--process={i}"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for i in range(2)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.communicate()

    def ended(self, number: int) -> tuple[int, str]:
        """Waits for a process; returns its status and what it said."""
        process = self.processes[number]
        said, _ = process.communicate(timeout=300)
        return process.returncode, said


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The record of one process with one device."""
    workdir = tmp_path_factory.mktemp("alone")
    fit(ToyTask(), toy_config(), workdir, progress=NoProgress())
    return curve(workdir)


def survivor(workdir: Path, killed: int) -> tuple[int, str]:
    """Returns how the other of a killed process ends, and what it says."""
    with Pair(workdir, f"{killed},17,SIGKILL") as pair:
        status, said = pair.ended(killed)
        assert status == -signal.SIGKILL, said
        start = time.monotonic()
        found = pair.ended(1 - killed)
        assert time.monotonic() - start < LIMIT
    return found


def go_on(workdir: Path, alone) -> None:
    """Finishes a run in this process, on eight devices, and compares all of its numbers."""
    config = toy_config()
    config.mesh = {"data": 8}
    fit(ToyTask(), config, workdir, progress=NoProgress())
    assert_alike(curve(workdir), alone)


def test_the_other_of_a_killed_process_ends_and_the_run_goes_on(tmp_path, alone):
    status, said = survivor(tmp_path, 1)
    assert status == 1
    assert (
        "error: process 1 of 2 has given no sign of life for 15 s; the others end too: run" in said
    )
    records = curve(tmp_path)
    assert records[-1]["step"] >= 14
    assert_alike(records, alone[: len(records)])
    go_on(tmp_path, alone)


@pytest.mark.slow
def test_the_others_of_a_killed_first_process_end(tmp_path, alone):
    status, said = survivor(tmp_path, 0)
    assert status == 1
    assert "error: process 0 of 2 (127.0.0.1:" in said
    go_on(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ends", "statuses"),
    [("1,4,SIGTERM", (0, 0)), ("1,4,SIGINT", (0, 130)), ("all,4,SIGINT", (130, 130))],
)
def test_a_signal_stops_all_after_the_same_step(ends, statuses, tmp_path, alone):
    with Pair(tmp_path, ends) as pair:
        found = [pair.ended(number) for number in range(2)]
    assert tuple(status for status, _ in found) == statuses, found
    stops = [re.findall(r"^stopped at step (\d+); run the same", said, re.M) for _, said in found]
    assert stops[0] == stops[1] and len(stops[0]) == 1, found
    go_on(tmp_path, alone)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--process=1", "--process: only with --distributed"),
        ("--distributed --process=1", "--coordinator: missing; give all of --coordinator,"),
        ("--distributed --coordinator=here --processes=2 --process=0", "expected HOST:PORT, got"),
        (
            "--distributed --coordinator=a:1 --processes=two --process=0",
            "--processes: expected a nu",
        ),
        ("--distributed --coordinator=a:1 --processes=2 --process=2", "--process: expected 0 to 1"),
        ("--distributed --profile", "--profile: for a single process, without"),
        ("--distributed --mode=report", "--distributed: --mode=report is for a single process"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, message, capsys):
    assert pathfinder.main(flags.split()) == 2
    assert message in capsys.readouterr().err
