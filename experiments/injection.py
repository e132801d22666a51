"""Injection: trains a small vision-language model to answer questions about pictures."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments import cli
from experiments.runs import Runs

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "injection.py"


def make_task(config: ConfigDict) -> Any:
    """Builds model and data of a config, and trains the encoder unless that is done."""
    from experiments.tasks import injection, scene_encoder  # bring in JAX, which flags do without

    task = injection.make_task(config)  # a mistake is told before the encoder is trained
    scene_encoder.train_encoder(config)
    return task


def write_report(config: ConfigDict, workdir: Path, task: Any, params: Any) -> Path:
    """Writes the page of a run; returns its path."""
    from experiments.reports import injection

    return injection.write_report(config, workdir, task, params)


RUNS = Runs(make_task, write_report)
train_and_evaluate = RUNS.train_and_evaluate


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return cli.run(
        RUNS.modes(),
        module="experiments.injection",
        description="Trains a small vision-language model to answer questions about pictures.",
        default_config=DEFAULT_CONFIG,
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
