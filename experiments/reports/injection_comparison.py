"""The page that compares ways of putting vision into language."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from common.analysis import Page, curves
from common.data.sort_of_clevr import TYPES
from common.train import read_records
from experiments.analyses import injection as look
from experiments.comparisons.injection import (
    CONTROLS,
    LAYERS,
    MECHANISMS,
    OWN_LAYERS,
    STUDIED,
    TASK,
)
from experiments.comparisons.members import Member
from experiments.comparisons.results import Comparison, Result, mean_score, of, read_results, spread
from experiments.reports.comparison import add_facts
from experiments.reports.injection import add_attention, add_encoder, add_gates, add_modulation
from experiments.reports.injection_parts import add_ensembles, add_pathways
from experiments.reports.wording import duration, share
from experiments.tasks.injection import GROUPS, make_task

ANCHORS = "CNN and MLP about 63 %, relation network 94 to 96 % (Santoro et al. 2017)"
FILMS = ("FiLM", "FiLM of three pathways", "FiLM-Ensemble")
LOOKED_AT = (
    "gated cross-attention",
    "projection (LLaVA)",
    "Perceiver and gated cross-attention (Flamingo)",
    "slots",
)
"""Mechanisms whose attention to the image is shown."""
POSITIONS = {"first": 1, "second": 2, "third": 3, "fourth": 4}


def write_page(chosen: Sequence[Member], out: Path, kept: Path | None = None) -> Path:
    """Writes out/injection_comparison.html from the finished runs of a comparison."""
    results = read_results(chosen, out, kept)
    runs = Comparison(results, out, make_task)
    page = Page("How had vision better enter a language model?")
    add_answer(page, results)
    add_encoder(page, results[0].member.config())
    add_mechanisms(page, results)
    add_controls(page, results)
    add_layers(page, results)
    add_mechanics(page, runs, out)
    add_facts(page, results)
    return page.write(out / "injection_comparison.html")


def add_answer(page: Page, results: Sequence[Result]) -> None:
    """Adds which mechanism answers best, and what that does not show."""
    means = {
        model: [mean_score(found, group) for group in GROUPS]
        for model in MECHANISMS
        if (found := of(results, "mechanisms", TASK, model))
    }
    if means:
        best = max(means, key=lambda model: means[model][1])
        plain, relational = means[best]
        page.lead(
            f"The most relational questions are answered rightly by {best}: {share(relational)}, "
            f"and {share(plain)} of the non-relational ones."
        )
    page.paragraph(
        "All models have about as many parameters and see the same pictures in the same number of "
        "steps, with one recipe. The encoder of pictures is trained before, without language, and "
        "frozen; all models of a seed share it. At the place of every object it was taught to name "
        "the object, the one nearest to it and the one furthest from it, by colour and shape. So "
        "the relations are in the features, and shown is how well each mechanism carries them into "
        "the text in so few steps: not which one reasons, nor what they are worth to large "
        f"pretrained models. Published relational scores, trained from pixels: {ANCHORS}."
    )


def add_mechanisms(page: Page, results: Sequence[Result]) -> None:
    """Adds the table of the mechanisms, by type of question and by cost."""
    rows, costs = [], []
    for model in MECHANISMS:
        if found := of(results, "mechanisms", TASK, model):
            rows.append((model, *_scores(found)))
            costs.append((model, *_cost(found)))
            first = found[0]
    if not rows:
        return
    page.section("Mechanisms")
    page.paragraph(
        "Shares of right answers to test questions, mean and standard deviation over seeds. The "
        "groups are the means of three types each."
    )
    page.table(("mechanism", *GROUPS, *TYPES), rows)
    page.paragraph(
        "What they cost: operations of the answers to the six questions about one test picture as "
        "XLA counts them, without those of the encoder, "
        f"{look.encoder_flops(first.member.config()) / 1e6:.1f} million; the median time of a "
        "training step; and the wall time of a run with its validations but without the encoder's, "
        "whatever else ran on the machine."
    )
    header = ("mechanism", "parameters", "operations a picture", "ms a step", "wall time of a run")
    page.table(header, costs)


def _scores(found: Sequence[Result]) -> list[str]:
    return [spread([r.scores[name] for r in found]) for name in (*GROUPS, *TYPES)]


def _cost(found: Sequence[Result]) -> tuple[str, ...]:
    operations = look.flops(make_task(found[0].member.config()))
    return (
        f"{found[0].parameters:,}",
        f"{operations / 1e6:.1f} million",
        f"{1000 / statistics.median(r.steps_per_second for r in found):.0f}",
        duration(statistics.median(r.seconds for r in found)),
    )


def add_controls(page: Page, results: Sequence[Result]) -> None:
    """Adds who is not shown the image or the question, beside the floors that are counted."""
    rows = []
    for model in CONTROLS:
        if found := of(results, "controls", TASK, model):
            rows.append((f"trained: {model}", *_scores(found)))
            floors = look.floors(make_task(found[0].member.config()))
    if not rows:
        return
    names = {
        "majority": "counted: the commonest answer to a type of question",
        "question": "counted: the commonest answer to a question with its colour",
        "image": "counted: the best single answer to all questions about a picture",
        "shapes": "counted: shapes without places",
    }
    for key, values in floors.items():
        rows.append((names[key], *(f"{values[name]:.3f}" for name in (*GROUPS, *TYPES))))
    page.section("Controls")
    page.paragraph(
        "Gated cross-attention that is not shown the image, or not the question, and what the test "
        "pictures' answers give away by counting. Shapes without places: the nearest and the "
        "furthest are guessed to have the commoner shape of the other objects. A model that counts "
        "and knows no distance reaches that; only what is above it is relational."
    )
    page.table(("control", *GROUPS, *TYPES), rows)


def add_layers(page: Page, results: Sequence[Result]) -> None:
    """Adds the scores by the layers that a mechanism stands before."""
    rows, panels = [], {}
    for model in STUDIED:
        by_layer = {layers: _before(results, model, layers) for layers in LAYERS}
        rows += [
            (model, layers, f"{found.parameters:,}", *_scores([found]))
            for layers, found in by_layer.items()
            if found
        ]
        single = {n: found for x, n in POSITIONS.items() if (found := by_layer[x])}
        if single:
            named = {
                group: tuple(
                    [r.scores[f"{group}{end}"] for r in single.values()]
                    for end in ("", "_low", "_high")
                )
                for group in GROUPS
            }
            panels[f"layer that {model} stands before"] = (list(single), named)
    if not rows:
        return
    page.section("Before which layers?")
    page.paragraph(
        "The same mechanism before the first two layers (early), the middle two, the last two "
        "(late), every second, every one, or a single one of the four. What stands before more "
        "layers has more parameters. One seed; bands are 95 % intervals of the test questions."
    )
    page.table(("mechanism", "layers", "parameters", *GROUPS, *TYPES), rows)
    if panels:
        figure = curves(panels, "right answers")
        page.figure(figure, "layers", "Right answers by the layer that the mechanism stands before")


def _before(results: Sequence[Result], model: str, layers: str) -> Result | None:
    """Returns the first seed's run of a mechanism before some layers, None if it is not done."""
    if layers == OWN_LAYERS:
        found = of(results, "mechanisms", TASK, model)
    else:
        found = of(results, "layers", TASK, f"{model} {layers}")
    return min(found, key=lambda result: result.member.seed, default=None)


def add_mechanics(page: Page, runs: Comparison, out: Path) -> None:
    """Adds gates, modulation and attention, of the first seed's models."""
    histories, films, lookers = {}, {}, {}
    for model in MECHANISMS:
        if trained := runs.trained("mechanisms", TASK, model):
            records = read_records(out / trained.result.member.folder / "metrics.jsonl")
            histories[model] = look.gate_histories(records)
            if model in FILMS:
                films[model] = (trained.task, trained.params)
            if model in LOOKED_AT:
                lookers[model] = (trained.task, trained.params)
    add_gates(page, histories)
    for add in (add_modulation, add_ensembles, add_pathways):
        add(page, films)
    add_attention(page, lookers)
