"""The Pathfinder report: one page that says what a run reached and what its model does."""

import json
import shlex
from pathlib import Path

import jax
from ml_collections import ConfigDict

from common.analysis import Page
from common.array_types import PyTree
from experiments.reports import mechanism, outcome
from experiments.reports.measurements import ImageTask
from experiments.reports.run import Run, read_run
from experiments.reports.wording import duration


def write_report(config: ConfigDict, workdir: str | Path, task: ImageTask, params: PyTree) -> Path:
    """Writes workdir/report/report.html, with its pictures also beside it as PNG files.

    What a model has none of (kernels, gates, states) is left out.

    Args:
        config: settings of the run.
        workdir: folder of the run; metrics.jsonl, result.json and environment.json are read
            where they exist.
        task: model and data.
        params: parameters to report on, those of the best checkpoint as a rule.

    Returns:
        The path of the page.
    """
    run = read_run(config, Path(workdir), task, params)
    page = Page(f"Pathfinder: {config.model.name}")
    outcome.add_result(page, run)
    outcome.add_curves(page, run)
    outcome.add_samples(page, run)
    mechanism.add_kernels(page, run)
    mechanism.add_gates(page, run)
    mechanism.add_attribution(page, run)
    mechanism.add_states(page, run)
    outcome.add_distance(page, run)
    add_facts(page, run)
    return page.write(run.workdir / "report" / "report.html")


def add_facts(page: Page, run: Run) -> None:
    """Adds what the run was: size, time, hardware, versions, commands, settings."""
    environment, train = run.environment, run.config.train
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.params))
    versions = environment.get("packages", {})
    started = environment.get("start_time", "").replace("T", " ").replace("+00:00", " UTC")
    facts: dict[str, object] = {
        "model": run.config.model.name,
        "parameters": f"{parameters:,}",
        "training": f"{run.last_step:,} of {train.steps:,} steps of {train.batch_size} images",
        "parameters kept from step": run.result.get("best_step"),
        "seed": run.config.seed,
        "wall time": _wall_time(run),
        "hardware": _hardware(run),
        "started": started,
        "resumed at steps": ", ".join(str(r["step"]) for r in environment.get("resumed", [])),
        "Python": environment.get("python"),
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "commit of the code": environment.get("git_commit"),
        "command": environment.get("command"),
        "this page again": f"python -m experiments.pathfinder --mode=report "
        f"--workdir={shlex.quote(str(run.workdir))}",
    }
    page.section("The run")
    page.facts({name: value for name, value in facts.items() if value not in (None, "")})
    page.details("All settings", json.dumps(run.config.to_dict(), indent=2, default=str))


def _wall_time(run: Run) -> str | None:
    """Returns the time that all sessions of the run took, up to the last record."""
    seconds = run.records[-1].get("timing", {}).get("elapsed_seconds") if run.records else None
    return None if seconds is None else duration(seconds)


def _hardware(run: Run) -> str:
    environment = run.environment
    if not environment:
        return ""
    cores = environment.get("cpu_cores")
    parts = [f"{environment.get('cpu')}, {cores} {'core' if cores == 1 else 'cores'}"]
    if environment.get("device_platform") not in (None, "cpu"):
        parts.insert(0, f"{environment.get('device_count')} x {environment.get('device_kind')}")
    return "; ".join([*parts, str(environment.get("platform", ""))])
