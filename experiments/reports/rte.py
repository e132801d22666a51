"""The report of an entailment run: its score beside what needs no training, curves, mistakes."""

import json
import shlex
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from alcnet import find_folder
from common.analysis import Page, comparison, learning_curves
from common.array_types import PyTree
from common.data.pairs import FolderTokens
from common.train import parameter_count, read_records
from common.train.workdir import read_json
from experiments.reports.measurements import Score
from experiments.reports.pair_answers import (
    Answers,
    answer,
    held_out,
    require_two_classes,
    save_answers,
)
from experiments.reports.pair_baselines import EXPLANATIONS, baselines, score_answers
from experiments.reports.wording import duration, interval, share

MODEL = "this model"
SHOWN = 8
CAVEAT = (
    "The encoder, MiniLM, saw SNLI and MultiNLI pairs in its pretraining (its model card says so), "
    "which are entailment data of another source."
)


def write_report(config: ConfigDict, workdir: str | Path, task: Any, params: PyTree) -> Path:
    """Writes workdir/report/report.html and workdir/predictions.json.

    Args:
        config: settings of the run.
        workdir: folder of the run.
        task: model and data.
        params: parameters to report on.

    Returns:
        The path of the page.

    Raises:
        UserError: all answers are one class and the config refuses that; the page is written.
    """
    workdir = Path(workdir)
    split, source = held_out(task)
    answers = answer(task, params, source, config.train.eval_batch_size)
    save_answers(answers, workdir)
    page = Page(f"Entailment: {', '.join(config.model.branches)}")
    add_result(page, config, task, split, answers)
    add_curves(page, workdir, answers)
    add_mistakes(page, source.pairs, answers, split)
    add_facts(page, config, workdir, params)
    path = page.write(workdir / "report" / "report.html")
    if config.train.refuse_one_class:
        require_two_classes(answers, source.pairs.classes)
    return path


def add_result(page: Page, config: ConfigDict, task: Any, split: str, answers: Answers) -> None:
    """Adds the score and, beside it, what the baselines reach."""
    score, source = score_answers(answers.answers, answers.labels), task.eval_sources[split]
    count = len(answers.labels)
    if answers.one_class:
        page.lead(
            f"Not trained: the model answers {source.pairs.classes[answers.answers[0]]!r} to all "
            f"{count:,} {split} pairs. Its accuracy, {share(score.value)}, is the share of that "
            "class and says nothing."
        )
    else:
        page.lead(
            f"The model is right on {int(answers.correct.sum()):,} of {count:,} {split} pairs: "
            f"{share(score.value)} (95 % interval {interval(score)})."
        )
    found = {MODEL: score, **baselines_of(config, task, split)}
    best = max((k for k in found if k != MODEL), key=lambda k: found[k].value)
    gain = 100 * (score.value - found[best].value)
    clear = score.low > found[best].high
    page.paragraph(
        f"The best of the baselines ({best}) reaches {share(found[best].value)}; the model is "
        f"{gain:+.1f} points from it, {'beyond' if clear else 'within'} what the two intervals "
        "leave open. A plain fine-tuned encoder is a run of its own, see "
        "python -m experiments.reports.rte_table."
    )
    if config.encoder.folder:
        page.paragraph(CAVEAT)
    page.figure(
        comparison(list(found), *zip(*found.values(), strict=True), chance=0.5),
        "comparison",
        "Accuracy of the model and of baselines",
    )
    page.table(
        ("answers come from", "accuracy", "95 % interval", "what it knows"),
        [
            (name, share(s.value), interval(s), EXPLANATIONS.get(name, "all of the pair"))
            for name, s in found.items()
        ],
    )


def baselines_of(config: ConfigDict, task: Any, split: str) -> dict[str, Score]:
    """Returns the baselines of a run's data and encoder."""
    folder = config.encoder.folder
    sentences = FolderTokens(find_folder(folder)) if folder else None
    return baselines(task, task.eval_sources[split], Path(config.data.cache), sentences)


def add_curves(page: Page, workdir: Path, answers: Answers) -> None:
    """Adds loss and accuracy over the training steps."""
    records = read_records(workdir / "metrics.jsonl")
    if not any(r["split"] == "train" and "accuracy" in r for r in records):
        return
    page.section("Learning")
    page.paragraph(
        "Loss and accuracy over the training steps; the loss in training is the smoothed one. "
        f"Where guessing the more frequent class gives {share(_majority(answers))}."
    )
    figure = learning_curves(records, chance=_majority(answers))
    page.figure(figure, "learning_curves", "Loss and accuracy over the training steps")


def _majority(answers: Answers) -> float:
    return float(np.bincount(answers.labels).max() / len(answers.labels))


def add_mistakes(page: Page, pairs: Any, answers: Answers, split: str) -> None:
    """Adds the pairs that the model gets wrong most surely."""
    wrong = np.flatnonzero(~answers.correct)
    sure = wrong[np.argsort(-np.abs(answers.probability[wrong] - 0.5), kind="stable")][:SHOWN]
    page.section("Surest mistakes")
    page.paragraph(f"{len(wrong):,} of {len(answers.labels):,} {split} pairs are answered wrongly.")
    rows = [
        (
            f"{100 * max(answers.probability[i], 1 - answers.probability[i]):.0f} %",
            pairs.classes[answers.answers[i]],
            f"{pairs.first[i]} / {pairs.second[i]}",
        )
        for i in sure
    ]
    if rows:
        page.table(("sure by", "answer", "pair"), rows)


def add_facts(page: Page, config: ConfigDict, workdir: Path, params: PyTree) -> None:
    """Adds size, time, hardware, versions, commands and settings."""
    environment = _read(workdir / "environment.json")
    records = read_records(workdir / "metrics.jsonl")
    seconds = records[-1].get("timing", {}).get("elapsed_seconds") if records else None
    versions = environment.get("packages", {})
    facts = {
        "branches": ", ".join(config.model.branches),
        "parameters": f"{parameter_count(params):,}",
        "training": f"{config.train.steps:,} steps of {config.train.batch_size} pairs",
        "seed": config.seed,
        "wall time": None if seconds is None else duration(seconds),
        "hardware": f"{environment.get('cpu')}, {environment.get('cpu_cores')} cores"
        if environment
        else None,
        "started": environment.get("start_time"),
        "packages": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "commit of the code": environment.get("git_commit"),
        "command": environment.get("command"),
        "this page again": "python -m experiments.rte --mode=report "
        f"--workdir={shlex.quote(str(workdir))}",
        "device": jax.devices()[0].device_kind,
    }
    page.section("The run")
    page.facts({name: value for name, value in facts.items() if value not in (None, "")})
    page.details("All settings", json.dumps(config.to_dict(), indent=2, default=str))


def _read(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}
