"""Language: trains a model to predict the next token of text or of made-up sequences."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments import cli
from experiments.runs import Runs

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "language.py"


def make_task(config: ConfigDict) -> Any:
    """Builds model and data of a config; encodes a text that is not encoded yet."""
    from experiments.tasks import language  # brings in JAX, which the command line does without

    return language.make_task(config)


def write_report(config: ConfigDict, workdir: Path, task: Any, params: Any) -> Path:
    """Writes the page of a run; returns its path."""
    from experiments.reports import language

    return language.write_report(config, workdir, task, params)


RUNS = Runs(make_task, write_report)
train_and_evaluate = RUNS.train_and_evaluate


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    return cli.run(
        RUNS.modes(),
        module="experiments.language",
        description="Trains a model to predict the next token of text or of made-up sequences.",
        default_config=DEFAULT_CONFIG,
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
