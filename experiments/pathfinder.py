"""Pathfinder: trains a model to say whether two dots lie on one contour."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments import cli

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "pathfinder.py"


def train_and_evaluate(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Trains or resumes a run, scores it on the test images and writes its report.

    Args:
        config: see experiments/configs/pathfinder.py.
        workdir: folder of the run; the same call on the same folder resumes it.

    Returns:
        The content of `workdir/result.json`: scores by split, steps, parameters, timing.
    """
    from common.train import fit, require_free
    from experiments.tasks.pathfinder import make_task

    require_free(Path(workdir))  # before images are generated
    task = make_task(config)
    result = fit(task, config, workdir)
    _write_report(config, workdir, task)
    return result


def evaluate(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Scores the best checkpoint of a run on the validation and test images again."""
    from common.train import evaluate as score
    from common.train import restore_params
    from experiments.tasks.pathfinder import make_task

    task = make_task(config)
    step, params = restore_params(task, config, workdir)
    print(f"checkpoint of step {step}")
    scores = {}
    for split, source in task.eval_sources.items():
        scores[split] = score(task, params, source, config.train.eval_batch_size)
        print(split, " ".join(f"{name}={value:.6g}" for name, value in scores[split].items()))
    return scores


def report(config: ConfigDict, workdir: str | Path) -> None:
    """Writes report/report.html of a run from its best checkpoint and its record."""
    from experiments.tasks.pathfinder import make_task

    _write_report(config, workdir, make_task(config))


def replay(config: ConfigDict, workdir: str | Path, step: int) -> None:
    """Makes step --step=N of a run again; shows its loss and gradient, keeps its batch."""
    from common.train import replay as make_again
    from experiments.reports.replay import save_replay, show_replay
    from experiments.tasks.pathfinder import make_task

    found = make_again(make_task(config), config, workdir, step)
    show_replay(found)
    for file in save_replay(found, Path(workdir)):
        print("written:", file)


def _write_report(config: ConfigDict, workdir: str | Path, task: Any) -> None:
    from common.train import restore_params
    from experiments.reports.pathfinder import write_report

    _, params = restore_params(task, config, workdir)
    print("report:", write_report(config, workdir, task, params))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return cli.run(
        {"train": train_and_evaluate, "eval": evaluate, "report": report, "replay": replay},
        module="experiments.pathfinder",
        description="Trains a model to say whether two dots lie on one contour.",
        default_config=DEFAULT_CONFIG,
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
