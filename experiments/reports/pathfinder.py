"""The Pathfinder report: one page that says what a run reached and what its model does."""

from pathlib import Path

from ml_collections import ConfigDict

from common.analysis import Page
from common.array_types import PyTree
from experiments.reports import mechanism, outcome
from experiments.reports.measurements import ImageTask
from experiments.reports.record import add_facts
from experiments.reports.run import read_run


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
    add_facts(page, run, "experiments.pathfinder", "images")
    return page.write(run.workdir / "report" / "report.html")
