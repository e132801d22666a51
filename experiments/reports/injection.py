"""The page of an injection run: scores by type of question, floors, and how vision enters."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from common.analysis import (
    Page,
    attribution_maps,
    gates_over_training,
    learning_curves,
    scaling_and_shifting,
)
from common.array_types import Int, PyTree
from common.data.pipeline import gather
from common.data.sort_of_clevr import TYPES, decode
from common.train.workdir import read_json
from experiments.analyses import injection as look
from experiments.reports.injection_parts import PICTURES, add_ensembles, add_pathways
from experiments.reports.record import RunRecord, add_facts, read_record
from experiments.reports.wording import share
from experiments.tasks.injection import GROUPS, InjectionTask
from experiments.tasks.scene_encoder import encoder_run


def write_report(config: ConfigDict, workdir: Path, task: InjectionTask, params: PyTree) -> Path:
    """Writes workdir/report/report.html, with its pictures also beside it as PNG files.

    Args:
        config: settings of the run.
        workdir: folder of the run.
        task: model and data.
        params: parameters to report on, those of the best checkpoint as a rule.

    Returns:
        The path of the page.
    """
    run = read_record(config, workdir, params)
    page = Page(f"Vision into language: {config.model.mechanism}")
    add_result(page, run, task)
    add_encoder(page, config)
    add_curves(page, run)
    model = {config.model.mechanism: (task, params)}
    add_gates(page, {config.model.mechanism: look.gate_histories(run.records)})
    for add in (add_modulation, add_ensembles, add_pathways, add_attention):
        add(page, model)
    add_facts(page, run, "experiments.injection", "pictures")
    return page.write(workdir / "report" / "report.html")


def add_result(page: Page, run: RunRecord, task: InjectionTask) -> None:
    """Adds the scores by type of question, beside what needs no look at picture or question."""
    scores = run.result.get("test")
    if scores is None:
        page.lead("The run has not ended yet; what follows is of its parameters so far.")
        return
    hidden = "" if task.blank == "nothing" else f" The model is not shown the {task.blank}."
    page.lead(
        f"Right answers to {share(scores['non_relational'])} of the non-relational and "
        f"{share(scores['relational'])} of the relational questions about "
        f"{scores['count']:,} test pictures.{hidden}"
    )
    floors = look.floors(task)
    rows = [
        (
            name,
            share(scores[name]),
            f"{share(scores[f'{name}_low']).split()[0]} to {share(scores[f'{name}_high'])}",
            *(share(floor[name]) for floor in floors.values()),
        )
        for name in ("accuracy", *GROUPS, *TYPES)
        if f"{name}_low" in scores
    ]
    page.paragraph(
        "Floors, of the same pictures: the commonest answer to a type of question; to a question "
        "with its colour; the best single answer to all questions about a picture; and what the "
        "shapes tell without their places: whoever guesses the commoner shape of the other objects "
        "is right that often about the nearest and the furthest. Intervals: 95 %, Wilson."
    )
    header = ("questions", "right", "interval", "commonest answer", "question alone")
    page.table((*header, "picture alone", "shapes without places"), rows)


def add_encoder(page: Page, config: ConfigDict) -> None:
    """Adds how well the encoder of a run names what its features are of."""
    own, folder = encoder_run(config)
    file = folder / "result.json"
    if not file.exists():
        return
    scores = read_json(file)["validation"]
    page.paragraph(
        "Features are of an encoder that was trained before, without questions, and frozen "
        f"({own.train.steps:,} steps, {folder.name}). At the places of objects in "
        f"{scores['count']:,} validation pictures it names {share(scores['here'])} of them by "
        f"colour and shape, {share(scores['nearest'])} of those nearest to them and "
        f"{share(scores['furthest'])} of those furthest from them."
    )


def add_curves(page: Page, run: RunRecord) -> None:
    """Adds loss and accuracy over the steps."""
    if {record["split"] for record in run.records} < {"train", "validation"}:
        return
    page.section("Learning")
    figure = learning_curves(run.records, best_step=run.result.get("best_step"))
    page.figure(figure, "learning_curves", "Loss and accuracy over the training steps")


def add_gates(page: Page, histories: Mapping[str, Mapping[str, tuple[list, list]]]) -> None:
    """Adds the gates over training, of the models that have any."""
    gated = {model: gates for model, gates in histories.items() if gates}
    if not gated:
        return
    page.section("Gates")
    page.paragraph(
        "The tanh of every gate, which is 0 at the start: so much of what attention or the "
        "feed-forward net gives is added to the text. The sign means nothing by itself."
    )
    page.figure(gates_over_training(gated), "gates", "Gates over the training steps")


def add_modulation(page: Page, models: Mapping[str, tuple[InjectionTask, PyTree]]) -> None:
    """Adds how much FiLM layers scale and shift, by layer and type of question."""
    found = {}
    for name, (task, params) in models.items():
        batch = gather(task.eval_sources["test"], look.first_pictures(task, PICTURES))
        if layers := look.modulations(task, params, batch):
            found[name] = layers
    if not found:
        return
    page.section("Scaling or shifting?")
    page.paragraph(
        "Root mean squares of (gamma - 1) x and of beta at the answer's token, relative to that of "
        "x, which is what the layer is given. The shift's part is beta's of both: above 50 % "
        "shifting dominates."
    )
    rows = [
        (name, layer, *(share(value, 0) for value in sizes.shift_share))
        for name, layers in found.items()
        for layer, sizes in layers.items()
    ]
    page.table(("mechanism", "where", *(f"shift's part: {name}" for name in TYPES)), rows)
    for number, (name, layers) in enumerate(found.items(), 1):
        few = dict(list(layers.items())[:6])
        figure = scaling_and_shifting(TYPES, {k: (s.scaling, s.shifting) for k, s in few.items()})
        page.figure(figure, f"modulation_{number}", f"Scaling and shifting of {name}")


def add_attention(page: Page, models: Mapping[str, tuple[InjectionTask, PyTree]]) -> None:
    """Adds where the attention of questions, or of learned queries, falls on a picture."""
    figures = []
    for name, (task, params) in models.items():
        source = task.eval_sources["test"]
        batch = gather(source, look.first_pictures(task, PICTURES))
        batch["image"] = source.pictures[0]["image"]
        for layer, maps in look.image_attention(task, params, batch).items():
            figures.append((name, layer, batch, maps))
    if not figures:
        return
    page.section("Where it looks")
    page.paragraph(
        "Attention to the places of the encoder's map in the mean of the heads, for one test "
        "picture: from the last word of a question, which stands above, or of the first learned "
        "queries of a resampler. Each on its own scale."
    )
    for number, (name, layer, batch, maps) in enumerate(figures, 1):
        asked = maps.shape[1] == batch["tokens"].shape[1]
        rows = range(min(6, maps.shape[1]))
        captions = [_question(batch["tokens"][0, i]) if asked else f"query {i}" for i in rows]
        images = np.repeat(batch["image"][None], len(captions), axis=0)
        page.paragraph(f"{name}, {layer}")
        figure = attribution_maps(images, maps[0, : len(captions)], captions)
        page.figure(figure, f"attention_{number}", f"Attention of {name}, {layer}, to a picture")


def _question(tokens: Int[np.ndarray, "l"]) -> str:
    """Writes a question and its answer on two lines."""
    return f"{decode(tokens[:-1])}:\n{decode(tokens[-1:])}"
