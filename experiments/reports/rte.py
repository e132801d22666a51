"""The report of an entailment run: its score beside what needs no training, curves, mistakes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from alcnet import find_folder
from common.analysis import Page, comparison, learning_curves
from common.array_types import PyTree
from common.data.pairs import FolderTokens
from common.errors import UserError
from common.train.workdir import config_changes, to_fields
from experiments.reports.measurements import Score
from experiments.reports.pair_answers import (
    Answers,
    answer,
    held_out,
    require_two_classes,
    save_answers,
)
from experiments.reports.pair_baselines import EXPLANATIONS, baselines, score_answers
from experiments.reports.record import RunRecord, add_facts, read_record
from experiments.reports.rte_table import PLAIN, read_pair_runs, recipe
from experiments.reports.wording import interval, share

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
    run = read_record(config, Path(workdir), params)
    split, source = held_out(task)
    answers = answer(task, params, source, config.train.eval_batch_size)
    save_answers(answers, run.workdir)
    page = Page(f"Entailment: {', '.join(config.model.branches)}")
    add_result(page, config, task, split, answers, plain_beside(run))
    add_curves(page, run, answers)
    add_mistakes(page, source.pairs, answers, split)
    add_facts(page, run, "experiments.rte", "pairs")
    path = page.write(run.workdir / "report" / "report.html")
    if config.train.refuse_one_class:
        require_two_classes(answers, source.pairs.classes)
    return path


def add_result(
    page: Page,
    config: ConfigDict,
    task: Any,
    split: str,
    answers: Answers,
    plain: Mapping[str, Score],
) -> None:
    """Adds the score and, beside it, what the baselines and the plain encoder reach."""
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
    found = {MODEL: score, **baselines_of(config, task, split), **plain}
    best = max((k for k in found if k != MODEL), key=lambda k: found[k].value)
    gain = 100 * (score.value - found[best].value)
    clear = score.low > found[best].high
    page.paragraph(
        f"The best of the baselines ({best}) reaches {share(found[best].value)}; the model is "
        f"{gain:+.1f} points from it, {'beyond' if clear else 'within'} what the two intervals "
        "leave open."
        + (
            ""
            if plain or PLAIN == tuple(config.model.branches)
            else " The same encoder fine-tuned alone is a run of its own; no such run with this "
            "recipe and seed lies beside this one."
        )
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


def plain_beside(run: RunRecord) -> dict[str, Score]:
    """Returns the score of the plain encoder of this run's recipe and seed, from the folder beside.

    Empty where there is none, where runs of several recipes lie there, or where it answers one
    class alone.
    """
    try:
        others = read_pair_runs(run.workdir.parent)
    except UserError:
        return {}
    plain = others.get((PLAIN, run.config.seed))
    if plain is None or plain.answers.one_class or PLAIN == tuple(run.config.model.branches):
        return {}
    if config_changes(recipe(plain.config), recipe(to_fields(run.config))):
        return {}
    return {"plain encoder": score_answers(plain.answers.answers, plain.answers.labels)}


def add_curves(page: Page, run: RunRecord, answers: Answers) -> None:
    """Adds loss and accuracy over the training steps."""
    if not any(r["split"] == "train" and "accuracy" in r for r in run.records):
        return
    page.section("Learning")
    page.paragraph(
        "Loss and accuracy over the training steps; the loss in training is the smoothed one. "
        f"Where guessing the more frequent class gives {share(_majority(answers))}."
    )
    figure = learning_curves(run.records, chance=_majority(answers))
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
