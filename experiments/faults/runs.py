"""Starting, watching and comparing the runs that faults are put on."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.checkpoints.record import read_record
from common.errors import UserError
from common.train import read_records
from experiments.faults.subject import SIZES
from experiments.pathfinder import DEFAULT_CONFIG

ROOT = Path(__file__).parents[2]
LIMIT = 600.0
"""Seconds after which a process that should have ended counts as hung."""


class Run:
    """One run of the subject in its folder, started as often as it takes.

    Args:
        base: Folder of the whole experiment; keeps the images and the compiled programs.
        name: Name of the run's folder in it.
        overrides: Fields of the config by dotted key, beside those of every subject.
        environment: Further environment variables.
    """

    def __init__(
        self,
        base: Path,
        name: str,
        overrides: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        self.base, self.workdir = base, base / name
        self.checkpoints = self.workdir / "checkpoints"
        self.fields = {**SIZES, "data.cache": str(base / "data"), **(overrides or {})}
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(base / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **(environment or {}),
        }

    def start(self, prepare: Callable[[], object] | None = None) -> "Session":
        """Starts the command line; `prepare` is called in the new process before it."""
        command = [sys.executable, "-m", "experiments.faults.subject"]
        command += [f"--config={DEFAULT_CONFIG}:smoke", f"--workdir={self.workdir}"]
        command += [f"--config.{key}={value}" for key, value in self.fields.items()]
        return Session(self, command, prepare)

    def finish(self) -> None:
        """Runs to the end.

        Raises:
            UserError: It does not get there.
        """
        session = self.start()
        if status := session.wait():
            raise UserError(f"{self.workdir} ended with status {status}: {session.said()}")

    def finished(self) -> bool:
        """Tells whether the run is done."""
        return (self.workdir / "result.json").exists()

    def last_step(self) -> int:
        """Returns the last step of the record, which has one line a step."""
        records = read_records(self.workdir / "metrics.jsonl")
        return max((record["step"] for record in records), default=0)

    def saving(self) -> bool:
        """Tells whether a checkpoint is being written."""
        return any(self.checkpoints.glob("*-tmp*"))

    def outcome(self) -> dict[str, Any]:
        """Returns all that must not depend on faults: records, result, and the last digests."""
        result = json.loads((self.workdir / "result.json").read_text())
        records = read_records(self.workdir / "metrics.jsonl")
        last = read_record(self.checkpoints / str(result["step"]))
        outcome = {f"{r['step']} {r['split']}": _untimed(r) for r in records}
        outcome |= {f"digest of {name}": digest for name, digest in last.digests.items()}
        return outcome | {"result": _untimed(result), "number of records": len(records)}


class Session:
    """One process of a run."""

    def __init__(self, run: Run, command: list[str], prepare: Callable[[], object] | None):
        self.run = run
        self._environment = run.workdir / "environment.json"
        self._stamp = _stamp(self._environment)
        self.began = time.monotonic()
        self._log = run.base / f"{run.workdir.name}.log"
        with self._log.open("ab") as log:
            self._from = log.tell()
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=run.environment, cwd=ROOT, preexec_fn=prepare
            )

    def wait_until(self, holds: Callable[[], bool], limit: float = LIMIT) -> bool:
        """Waits until `holds()`; False if the process ends or the time is up before."""
        end = time.monotonic() + limit
        while time.monotonic() < end and self.process.poll() is None:
            if holds():
                return True
            time.sleep(0.001)
        return False

    def wait_for_step(self) -> bool:
        """Waits for the first step of this session."""
        if not self.wait_until(lambda: _stamp(self._environment) != self._stamp):
            return False
        metrics = self.run.workdir / "metrics.jsonl"
        size = metrics.stat().st_size
        return self.wait_until(lambda: metrics.stat().st_size > size)

    def signal(self, number: int) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def wait(self, limit: float = LIMIT) -> int:
        """Waits for the end and returns the exit status.

        Raises:
            UserError: It does not end in time; the process is killed.
        """
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise UserError(f"{self.run.workdir}: no end within {limit:.0f} s") from None

    def resumed_at(self) -> int | None:
        """Returns the step after which this process began; None if it did not come so far."""
        if _stamp(self._environment) == self._stamp:
            return None
        sessions = json.loads(self._environment.read_text()).get("resumed", [{"step": 0}])
        return sessions[-1]["step"]

    def seconds(self) -> float:
        """Returns the time since the start."""
        return time.monotonic() - self.began

    def said(self) -> str:
        """Returns what the process has printed, without the lines of progress."""
        lines = self._log.read_bytes()[self._from :].decode(errors="replace").splitlines()
        return "\n".join(line for line in lines if not line.startswith("step "))


def reference(base: Path, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Makes a run that nothing happens to, and returns its outcome."""
    run = Run(base, "uninterrupted", overrides)
    run.finish()
    return run.outcome()


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """Names the entries of two outcomes that are not the same, bit for bit."""
    names = [*expected, *(name for name in found if name not in expected)]
    return [name for name in names if found.get(name) != expected.get(name)]


def _stamp(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def _untimed(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "timing"}
