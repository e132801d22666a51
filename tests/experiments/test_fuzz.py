"""The fuzzer's sound files are read, its damage repeats, and it counts every way to fail."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from common.errors import DataError
from experiments import fuzz
from experiments.fuzz_targets import TARGETS


@pytest.mark.parametrize("kind", TARGETS)
def test_inputs_repeat_and_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    target, results = TARGETS[kind], []
    for number in range(200):
        data = target.change(np.random.default_rng((0, number)))
        assert data == target.change(np.random.default_rng((0, number)))
        (tmp_path / "input").write_bytes(data)
        result, detail, _, _ = fuzz._read_one(target.read, tmp_path / "input", len(data))
        results.append(result)
        assert not detail
    assert set(results) == {"accepted", "refused"}


def refuse(path: Path) -> None:
    raise DataError(f"{path}: no")


def refuse_without_a_name(path: Path) -> None:
    raise DataError("no")


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda path: None, "accepted"),
        (refuse, "refused"),
        (refuse_without_a_name, "error"),
        (lambda path: 1 / 0, "error"),
        (lambda path: time.sleep(5), "slow"),
        (lambda path: fuzz._events.append("os.system"), "run"),
    ],
)
def test_results_are_told_apart(tmp_path: Path, monkeypatch, read, expected: str) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    before = fuzz.signal.signal(fuzz.signal.SIGALRM, fuzz._stop)
    try:
        assert fuzz._read_one(read, tmp_path / "x", 9)[0] == expected
    finally:
        fuzz.signal.signal(fuzz.signal.SIGALRM, before)


def test_memory_above_the_bound_is_found(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fuzz, "FREE_BYTES", 1 << 20)
    fuzz.tracemalloc.start()
    try:
        result = fuzz._read_one(lambda path: bytes(2 << 20), tmp_path / "x", 9)
    finally:
        fuzz.tracemalloc.stop()
    assert result[0] == "memory"


def test_a_crash_is_counted(monkeypatch) -> None:
    monkeypatch.setattr(fuzz, "CHUNK", 5)
    monkeypatch.setattr(fuzz, "ProcessPoolExecutor", BrokenPool)
    report = fuzz.run("pickle", 10, 0)
    assert report["crash"] == 2
    assert "inputs range(0, 5)" in report["examples"][0]


class BrokenPool:
    def __init__(self, *_: object) -> None:
        pass

    def submit(self, *_: object) -> None:
        raise fuzz.BrokenProcessPool


def test_failures_set_the_status(tmp_path: Path, monkeypatch, capsys) -> None:
    report = dict.fromkeys(fuzz.RESULTS, 0) | {"peak_bytes": 0, "slowest_ms": 0.0}
    for error, status in ((0, 0), (1, 1)):
        monkeypatch.setattr(fuzz, "run", lambda *_, error=error: report | {"error": error})
        assert fuzz.main(["pickle", f"--out={tmp_path}"]) == status
        assert json.loads((tmp_path / "pickle.json").read_text())["error"] == error
        assert f"{error} error" in capsys.readouterr().out
