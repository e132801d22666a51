"""One run of any experiment, read back from its folder, and the facts about it."""

import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from common.analysis import Page
from common.array_types import PyTree
from common.train import read_records
from experiments.reports.wording import duration


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What the folder of a run holds.

    Attributes:
        config: settings of the run.
        workdir: its folder.
        params: parameters that the report is about.
        records: lines of metrics.jsonl.
        result: content of result.json; empty while the run has not ended.
        environment: content of environment.json; empty if there is none.
    """

    config: ConfigDict
    workdir: Path
    params: PyTree
    records: list[dict[str, Any]]
    result: Mapping[str, Any]
    environment: Mapping[str, Any]

    @property
    def last_step(self) -> int:
        """Returns the last step that the record knows of."""
        return max((record["step"] for record in self.records), default=0)


def read_record(config: ConfigDict, workdir: Path, params: PyTree) -> RunRecord:
    """Reads the folder of a run."""
    return RunRecord(
        config,
        workdir,
        params,
        read_records(workdir / "metrics.jsonl"),
        _read_json(workdir / "result.json"),
        _read_json(workdir / "environment.json"),
    )


def add_facts(page: Page, run: RunRecord, module: str, examples: str) -> None:
    """Adds what the run was: size, time, hardware, versions, commands, settings.

    Args:
        page: the page.
        run: the run.
        module: entry module of the experiment, e.g. 'experiments.pathfinder'.
        examples: what the examples of a batch are, e.g. 'images'.
    """
    environment, train = run.environment, run.config.train
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    versions = environment.get("packages", {})
    started = environment.get("start_time", "").replace("T", " ").replace("+00:00", " UTC")
    facts: dict[str, object] = {
        "model": run.config.model.get("name"),  # where several share an experiment
        "parameters": f"{parameters:,}",
        "training": f"{run.last_step:,} of {train.steps:,} steps of {train.batch_size} {examples}",
        "parameters kept from step": run.result.get("best_step"),
        "seed": run.config.seed,
        "wall time": _wall_time(run),
        "hardware": _hardware(run),
        "started": started,
        "resumed at steps": ", ".join(str(r["step"]) for r in environment.get("resumed", [])),
        "Python": environment.get("python"),
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "commit of the code": environment.get("git_commit"),
        "command": shlex.join(environment.get("command", ())),
        "this page again": f"python -m {module} --mode=report "
        f"--workdir={shlex.quote(str(run.workdir))}",
    }
    page.section("The run")
    page.facts({name: value for name, value in facts.items() if value not in (None, "")})
    page.details("All settings", json.dumps(run.config.to_dict(), indent=2, default=str))


def _wall_time(run: RunRecord) -> str | None:
    """Returns the time that all sessions of the run took, up to the last record."""
    seconds = run.records[-1].get("timing", {}).get("elapsed_seconds") if run.records else None
    return None if seconds is None else duration(seconds)


def _hardware(run: RunRecord) -> str:
    environment = run.environment
    if not environment:
        return ""
    cores = environment.get("cpu_cores")
    parts = [f"{environment.get('cpu')}, {cores} {'core' if cores == 1 else 'cores'}"]
    if environment.get("device_platform") not in (None, "cpu"):
        parts.insert(0, f"{environment.get('device_count')} x {environment.get('device_kind')}")
    return "; ".join([*parts, str(environment.get("platform", ""))])


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
