"""The table of the entailment runs: every ablation over seeds, compared pair by pair.

    python -m experiments.reports.rte_table runs/rte [--out=FILE]

Reads the finished runs in the folders below the given one, made with experiments/configs/rte.py,
and prints Markdown: the accuracy of each set of branches, its difference from the plain encoder and
from the whole model with the same seeds (paired t-test), and whether the attention branch helps.
A run whose answers are all one class is named and not averaged.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from common.errors import UserError
from common.train import wilson_interval
from common.train.workdir import read_json
from experiments.reports.pair_answers import Answers, load_answers
from experiments.reports.run_tables import deliver, origin, read_runs
from experiments.reports.wording import duration, share

ALL = ("cls", "cnn", "stats", "film")
PLAIN = ("cls",)


class PairRun(NamedTuple):
    """A finished run.

    Attributes:
        config: content of config.json.
        environment: content of environment.json.
        answers: to the held-out pairs.
        seconds: wall time of training and scoring.
    """

    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    answers: Answers
    seconds: float

    @property
    def branches(self) -> tuple[str, ...]:
        """Returns the parts that the model has."""
        return tuple(self.config["model"]["branches"])

    @property
    def accuracy(self) -> float:
        """Returns the share of right answers."""
        return float(self.answers.correct.mean())

    @property
    def key(self) -> tuple[tuple[str, ...], int]:
        """Returns branches and seed."""
        return self.branches, self.config["seed"]


class Difference(NamedTuple):
    """A mean difference of accuracies over seeds that both sides have.

    Attributes:
        mean: of the differences, a share.
        low: lower end of the 95 % interval by Student's t.
        high: upper end.
        p: two-sided p-value of the paired t-test.
        seeds: number of pairs.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int


Runs = dict[tuple[tuple[str, ...], int], PairRun]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(description="Prints the table of the entailment runs.")
    parser.add_argument("folder", type=Path, help="holds a folder for each run")
    parser.add_argument("--out", type=Path, help="a Markdown file to write")
    flags = parser.parse_args(argv)
    return deliver(flags.out, lambda: rte_table(read_pair_runs(flags.folder)))


def read_pair_runs(folder: Path) -> Runs:
    """Reads all finished runs below a folder, by branches and seed.

    Raises:
        UserError: no folder or no runs, a model trained twice with one seed, or unlike runs.
    """
    runs = read_runs(folder, _read_run, recipe)
    if not runs:
        raise UserError(f"{folder} holds no finished run")
    return runs


def _read_run(folder: Path) -> PairRun:
    seconds = read_json(folder / "result.json").get("timing", {}).get("elapsed_seconds", math.nan)
    return PairRun(
        read_json(folder / "config.json"),
        read_json(folder / "environment.json"),
        load_answers(folder),
        seconds,
    )


def recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what of a config the runs of one table have alike: all but branches and seed."""
    model = {k: v for k, v in config["model"].items() if k != "branches"}
    return {k: v for k, v in config.items() if k != "seed"} | {"model": model}


def rte_table(runs: Runs) -> str:
    """Returns the table, best mean first, what it says of the attention branch, and its origin."""
    collapsed = [key for key, run in runs.items() if run.answers.one_class]
    trained = {key: run for key, run in runs.items() if key not in collapsed}
    models = sorted({key[0] for key in trained}, key=lambda m: -_mean(trained, m))
    lines = [
        "| model | seeds | accuracy, mean and standard deviation | lowest to highest "
        "| against the plain encoder, points | against the whole model, points | time of a run |",
        "|---|---|---|---|---|---|---|",
        *(_row(trained, model) for model in models),
        "",
    ]
    for branches, seed in collapsed:
        lines += [f"Not trained, one class for all pairs: {describe(branches)}, seed {seed}.", ""]
    lines += [verdict(trained), "", _origin(runs)]
    return "\n".join(lines) + "\n"


def rows(runs: Runs) -> list[tuple[str, ...]]:
    """Returns model, seeds, accuracy and both differences of every model, best mean first."""
    trained = {key: run for key, run in runs.items() if not run.answers.one_class}
    found = []
    for model in sorted({key[0] for key in trained}, key=lambda m: -_mean(trained, m)):
        values = _accuracies(trained, model)
        spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
        gaps = [difference(trained, model, other) for other in (PLAIN, ALL)]
        cells = ["" if gap is None else _points(gap) for gap in gaps]
        mean = f"{100 * statistics.mean(values):.1f}{spread} %"
        found.append((describe(model), str(len(values)), mean, *cells))
    return found


def describe(branches: Sequence[str]) -> str:
    """Names a model by its parts: 'whole model', 'plain encoder', 'without cnn', ..."""
    chosen = tuple(branches)
    if chosen == ALL:
        return "whole model"
    if chosen == PLAIN:
        return "plain encoder (cls alone)"
    gone = [part for part in ALL if part not in chosen]
    if "cnn" in gone:
        gone = [part for part in gone if part != "film"]
    return f"without {' and '.join(gone)} (has {', '.join(chosen)})"


def difference(runs: Runs, model: tuple[str, ...], other: tuple[str, ...]) -> Difference | None:
    """Compares two models over the seeds that both have; None with fewer than two such seeds."""
    seeds = [seed for branches, seed in runs if branches == model and (other, seed) in runs]
    if len(seeds) < 2 or model == other:
        return None
    gaps = [runs[model, seed].accuracy - runs[other, seed].accuracy for seed in seeds]
    mean, error = statistics.mean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))
    half = float(stats.t.ppf(0.975, len(gaps) - 1)) * error
    p = 1.0 if mean == 0 else 0.0
    if error:
        p = 2 * float(stats.t.sf(abs(mean) / error, len(gaps) - 1))
    return Difference(mean, mean - half, mean + half, p, len(gaps))


def crossed_interval(
    runs: Runs, model: tuple[str, ...], other: tuple[str, ...]
) -> tuple[float, float]:
    """Returns a 95 % interval of the mean difference over other seeds and other sentence pairs.

    The variance of the mean over seeds and that over sentence pairs are added, with Satterthwaite's
    degrees of freedom. What belongs to neither alone is counted twice: wide rather than narrow.

    Args:
        runs: by branches and seed; both models have answered the same sentence pairs.
        model: branches of one side.
        other: of the other side.

    Raises:
        ValueError: fewer than two seeds that both sides have.
    """
    seeds = [number for branches, number in runs if branches == model and (other, number) in runs]
    if len(seeds) < 2:
        raise ValueError(f"{describe(model)} and {describe(other)} have {len(seeds)} common seeds")
    gains = np.stack(
        [
            runs[model, number].answers.correct.astype(float)
            - runs[other, number].answers.correct.astype(float)
            for number in seeds
        ]
    )
    counts = np.array(gains.shape)
    errors = np.array([gains.mean(1).var(ddof=1), gains.mean(0).var(ddof=1)]) / counts
    mean, total = float(gains.mean()), errors.sum()
    if total == 0:
        return mean, mean
    freedom = total**2 / (errors**2 / (counts - 1)).sum()
    half = float(stats.t.ppf(0.975, freedom) * np.sqrt(total))
    return mean - half, mean + half


def verdict(runs: Runs) -> str:
    """Says in a paragraph whether the parts that read attention help."""
    parts = []
    for name, model, other in (
        ("The whole model against the plain encoder", ALL, PLAIN),
        ("The whole model against itself without the CNN", ALL, ("cls", "stats")),
    ):
        found = difference(runs, model, other)
        if found is None:
            parts.append(f"{name}: fewer than two seeds of both.")
            continue
        if found.low > 0:
            words = "it helps"
        elif found.high < 0:
            words = "it harms"
        else:
            words = "no difference is shown"
        low, high = crossed_interval(runs, model, other)
        parts.append(
            f"{name}: {_points(found)} over {found.seeds} seeds; {words}. For other seeds and "
            f"other sentence pairs: [{100 * low:+.1f}, {100 * high:+.1f}]."
        )
    count = len(next(iter(runs.values())).answers.labels) if runs else 0
    if count:
        low, high = wilson_interval(0.6 * count, count)
        parts.append(
            f"All runs answer the same {count} pairs; the interval of one accuracy near 60 % is "
            f"{100 * low:.0f} to {100 * high:.0f} %; Student's intervals and the paired tests say "
            "how much seeds change, not how other pairs would come out."
        )
    return " ".join(parts)


def _mean(runs: Runs, model: tuple[str, ...]) -> float:
    return statistics.mean(_accuracies(runs, model))


def _accuracies(runs: Runs, model: tuple[str, ...]) -> list[float]:
    return [run.accuracy for (branches, _), run in runs.items() if branches == model]


def _row(runs: Runs, model: tuple[str, ...]) -> str:
    values = _accuracies(runs, model)
    spread = f"{100 * statistics.stdev(values):.1f}" if len(values) > 1 else "?"
    seconds = statistics.median(run.seconds for (b, _), run in runs.items() if b == model)
    gaps = [difference(runs, model, other) for other in (PLAIN, ALL)]
    cells = ["" if gap is None else _points(gap) for gap in gaps]
    return (
        f"| {describe(model)} | {len(values)} | {100 * statistics.mean(values):.1f} ± {spread} % "
        f"| {100 * min(values):.1f} to {share(max(values))} | {cells[0]} | {cells[1]} "
        f"| {'?' if math.isnan(seconds) else duration(seconds)} |"
    )


def _points(found: Difference) -> str:
    low, high = 100 * found.low, 100 * found.high
    p = f"p = {found.p:.2f}" if found.p >= 0.01 else "p < 0.01"
    return f"{100 * found.mean:+.1f} [{low:+.1f}, {high:+.1f}], {p}"


def _origin(runs: Runs) -> str:
    """Says on what, with which recipe, where and when."""
    run = next(iter(runs.values()))
    data, train = run.config["data"], run.config["train"]
    task = "generated facts" if data["source"] == "generate" else f"GLUE {data['task'].upper()}"
    places = "; ".join(origin(run.environment for run in runs.values()))
    return (
        f"{task}, {len(run.answers.labels):,} held-out pairs, {train['steps']:,} steps of "
        f"{train['batch_size']}, scored with the parameters that the run kept; {places}. Times are "
        "wall times, whatever else ran."
    )


if __name__ == "__main__":
    sys.exit(main())
