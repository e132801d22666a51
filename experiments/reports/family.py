"""The table of the family: every model on one task, over seeds.

    python -m experiments.reports.family runs/family [--models=gdn,vit] [--seeds=0,1,2] [--out=FILE]

Reads the runs in the folders below the given one, made with experiments/configs/family.py, and
prints a Markdown table, or writes it to FILE.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError
from common.train import read_records
from common.train.workdir import read_json
from experiments.configs.family import SEEDS, TABLE
from experiments.reports.run_tables import deliver, origin, read_runs
from experiments.reports.wording import share

OWN = ("model", "seed")
"""Parts of the config in which the runs of one table may differ."""


class FamilyRun(NamedTuple):
    """What the table takes from a finished run.

    Attributes:
        config: content of config.json.
        result: content of result.json.
        environment: content of environment.json.
        step_ms: median wall time of a training step, milliseconds.
    """

    config: Mapping[str, Any]
    result: Mapping[str, Any]
    environment: Mapping[str, Any]
    step_ms: float

    @property
    def model(self) -> str:
        """Returns the model's name: that of its block, if it has one."""
        return self.config["model"].get("cssm_type", self.config["model"]["name"])

    @property
    def key(self) -> tuple[str, int]:
        """Returns model and seed."""
        return self.model, self.config["seed"]


Runs = dict[tuple[str, int], FamilyRun]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(description="Prints the table of the family of models.")
    parser.add_argument("folder", type=Path, help="holds a folder for each run")
    parser.add_argument("--models", help="names with commas between them")
    parser.add_argument("--seeds", help="numbers with commas between them")
    parser.add_argument("--out", type=Path, help="a Markdown file to write")
    flags = parser.parse_args(argv)
    models = tuple(flags.models.split(",")) if flags.models else TABLE
    return deliver(
        flags.out,
        lambda: family_table(
            read_runs(flags.folder, _read_run, _shared),
            models,
            _numbers(flags.seeds) if flags.seeds else SEEDS,
            str(flags.folder),
        ),
    )


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        raise UserError(f"--seeds is {text!r}; expected numbers with commas between them") from None


def _read_run(folder: Path) -> FamilyRun:
    records = read_records(folder / "metrics.jsonl")
    speeds = [r.get("timing", {}).get("steps_per_second") for r in records if r["split"] == "train"]
    times = [1e3 / speed for speed in speeds if speed]
    return FamilyRun(
        read_json(folder / "config.json"),
        read_json(folder / "result.json"),
        read_json(folder / "environment.json"),
        statistics.median(times) if times else math.nan,
    )


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in OWN}


def family_table(runs: Runs, models: Sequence[str], seeds: Sequence[int], folder: str) -> str:
    """Returns the table of the models, best first, and a line on how it came about.

    Raises:
        UserError: runs are missing.
    """
    missing = [f"{model} {seed}" for model in models for seed in seeds if (model, seed) not in runs]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} runs (model and seed): {', '.join(missing)}"
        )
    of = {model: [runs[model, seed] for seed in seeds] for model in models}
    best_first = sorted(models, key=lambda model: -statistics.mean(_accuracies(of[model])))
    lines = [
        "| model | parameters | test accuracy, mean and standard deviation | lowest to highest "
        "| training step, ms |",
        "|---|---|---|---|---|",
        *(_row(model, of[model]) for model in best_first),
    ]
    return "\n".join([*lines, "", _origin([run for group in of.values() for run in group])]) + "\n"


def _accuracies(runs: Sequence[FamilyRun]) -> list[float]:
    return [run.result["test"]["accuracy"] for run in runs]


def _row(model: str, runs: Sequence[FamilyRun]) -> str:
    accuracies = _accuracies(runs)
    mean, low, high = statistics.mean(accuracies), min(accuracies), max(accuracies)
    spread = f"{100 * statistics.stdev(accuracies):.1f}" if len(runs) > 1 else "?"
    time = statistics.median(run.step_ms for run in runs)
    return (
        f"| `{model}` | {runs[0].result['parameters']:,} | {100 * mean:.1f} ± {spread} % "
        f"| {100 * low:.1f} to {share(high)} | {time:.0f} |"
    )


def _origin(runs: Sequence[FamilyRun]) -> str:
    """Says on what, by how much training, where and when."""
    config, result = runs[0].config, runs[0].result
    seeds = len({run.config["seed"] for run in runs})
    images = config["train"]["steps"] * config["train"]["batch_size"]
    parts = [
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}",
        f"{images:,} training and {result['test']['count']:,} test images",
        *origin(run.environment for run in runs),
    ]
    return f"{'; '.join(parts)}. Step times are wall times in training, whatever else ran."


if __name__ == "__main__":
    sys.exit(main())
