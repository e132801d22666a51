"""Entailment: trains an encoder, with or without branches that read its attention maps."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments import cli
from experiments.runs import Runs

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "rte.py"


def make_task(config: ConfigDict) -> Any:
    """Builds model and data of a config."""
    from experiments.tasks import rte  # brings in JAX, which the command line does without

    return rte.make_task(config)


def write_report(config: ConfigDict, workdir: Path, task: Any, params: Any) -> Path:
    """Writes the page of a run and its predictions; returns the page's path."""
    from experiments.reports import rte

    return rte.write_report(config, workdir, task, params)


RUNS = Runs(make_task, write_report)
train_and_evaluate = RUNS.train_and_evaluate


def analyze(config: ConfigDict, workdir: str | Path) -> None:
    """Writes analysis/analysis.html of a run: branches, probes, gradients, where the CNN looks."""
    from experiments.analyses import entailment

    task = make_task(config)
    print("page:", entailment.write_analysis(config, Path(workdir), task, tell=print))


def modes() -> dict[str, Callable[..., object]]:
    """Returns the modes by name, the first one the default."""
    return RUNS.modes() | {"analyze": analyze}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return cli.run(
        modes(),
        module="experiments.rte",
        description="Trains an encoder to tell entailment, and takes apart what it does.",
        default_config=DEFAULT_CONFIG,
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
