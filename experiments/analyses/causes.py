"""Sections on causes: the answer step by step, and without a state, a gate, a band or a frame."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from common.analysis import Page, answers_over_time, curves, knockouts
from common.array_types import Array, PyTree
from cssm import interventions
from cssm.recurrence import state_names
from experiments.analyses.recurrence import gate_values
from experiments.analyses.subject import BATCH, Subject
from experiments.reports.measurements import Score, in_batches
from experiments.reports.run import CHANCE, CLASSES
from experiments.reports.wording import interval, share

Context = contextlib.AbstractContextManager[None]
Groups = dict[str, dict[str, Score]]

NOTHING = "nothing taken away"
BANDS = 8
"""Rings of spatial frequencies that are taken away one after the other."""


def score_under(
    subject: Subject, change: Callable[..., Context], values: Sequence[Any] = ((),)
) -> list[Score]:
    """Scores the model on all images under an intervention.

    Args:
        subject: model and images.
        change: makes the intervention from numbers, see `cssm.interventions`.
        values: the tuples of numbers that it is called with, one after the other; compiled once.
    """

    @jax.jit
    def answers(params: PyTree, images: Array, numbers: Any) -> Array:
        with change(*numbers):
            return subject.apply(params, subject.run.task.preprocess(images)).argmax(-1)

    scores = []
    for numbers in values:
        found = in_batches(
            lambda p, x, n=numbers: answers(p, x, n), subject.params, (subject.images,), BATCH
        )
        scores.append(Score.of(found == subject.labels))
    return scores


def whole_score(subject: Subject) -> Score:
    """Returns the accuracy of the model as it is."""
    return Score.of(subject.run.predictions.correct)


def knock_out(subject: Subject) -> Groups:
    """Scores the model without each state, gate and frame, by kind of part and part."""
    groups: Groups = {"As it is": {NOTHING: whole_score(subject)}}
    for block in subject.spectral_blocks:
        groups |= _knock_out_block(subject, block)
    steps = subject.run.anatomy.steps

    def without(step: Any) -> Context:
        return interventions.skip_steps([step])

    scores = score_under(subject, without, [(np.int32(step),) for step in range(steps)])
    groups["Frames kept out of the recurrence"] = {
        f"frame {step + 1}": score for step, score in enumerate(scores)
    }
    return groups


def _knock_out_block(subject: Subject, block: str) -> Groups:
    where = f" ({block})" if len(subject.spectral_blocks) > 1 else ""
    states = {}
    names = state_names(subject.model)[block]
    for i, name in enumerate(names if len(names) > 1 else ()):
        states[name] = score_under(subject, lambda i=i: interventions.remove_state(i, block))[0]
    held, zero = {}, {}
    gates = gate_values(subject, block) if block in subject.run.anatomy.gates else {}
    for name, values in gates.items():

        def hold(value: Any, name: str = name) -> Context:
            return interventions.hold_gate(name, value, block)

        mean, nothing = score_under(subject, hold, [(values.mean(),), (np.float32(0),)])
        held[name], zero[name] = mean, nothing
    found = {f"States removed{where}": states, f"Gates held at their mean{where}": held}
    found[f"Gates held at zero{where}"] = zero
    return {kind: parts for kind, parts in found.items() if parts}


def add_knockouts(page: Page, subject: Subject) -> None:
    """Adds the accuracy without each part."""
    if not subject.spectral_blocks:
        return
    groups = knock_out(subject)
    whole = groups["As it is"][NOTHING]
    parts = {(kind, name): s for kind, group in groups.items() for name, s in group.items()}
    del parts["As it is", NOTHING]
    (kind, worst), least = min(parts.items(), key=lambda item: item[1].value)
    spared = [name for (_, name), s in parts.items() if s.high >= whole.value]
    page.section("What the answer needs")
    page.paragraph(
        f"Accuracy on {len(subject.labels)} images when one part is taken away: a state that stays "
        "zero; a gate that has one value for all images, steps and frequencies, its mean (what it "
        "knows is lost) or zero (what it lets through is lost); a frame that does not enter. "
        "Nothing is trained anew, so that a loss shows that the model relies on a part, not that "
        f"no model could do without it. As it is, it has {share(whole.value)} "
        f"({interval(whole)}). Most is lost by '{worst}' ({kind.lower()}): {share(least.value)}. "
        f"{len(spared)} of {len(parts)} parts can go without a clear loss (round and blue; square "
        "and red are those whose interval ends below the whole's accuracy)."
    )
    page.figure(knockouts(groups), "knockouts", "Accuracy without each part")


def band_scores(subject: Subject) -> tuple[np.ndarray, dict[str, list[Score]]]:
    """Scores the model with bands of spatial frequencies taken away.

    Returns:
        Edges (`BANDS`,) of rings, cycles per cell; and scores without the ring that begins there,
        with what lies below the end of that ring alone, and with what lies from its beginning on.
    """
    edges = np.linspace(0, np.sqrt(0.5), BANDS + 1).astype(np.float32)
    edges[-1] = 1.0
    low, high = edges[:-1], edges[1:]
    zero, one = np.zeros_like(low), np.ones_like(high)
    remove, keep = interventions.remove_frequencies, interventions.keep_frequencies
    return low, {
        "without this ring": score_under(subject, remove, list(zip(low, high, strict=True))),
        "this ring and all coarser": score_under(subject, keep, list(zip(zero, high, strict=True))),
        "this ring and all finer": score_under(subject, keep, list(zip(low, one, strict=True))),
    }


def add_bands(page: Page, subject: Subject) -> None:
    """Adds which spatial frequencies carry the answer."""
    if not subject.spectral_blocks:
        return
    edges, named = band_scores(subject)
    whole = whole_score(subject)
    without, coarse, _ = named.values()
    worst = int(np.argmin([score.value for score in without]))
    enough = [i for i, score in enumerate(coarse) if score.high >= whole.value]
    ends = [*edges[1:], np.sqrt(0.5)]
    told = "Only with all of them"
    if enough:
        told = f"From {ends[enough[0]]:.2f} cycles per cell down, all coarser ones together"
    page.section("Which spatial frequencies carry the answer")
    page.paragraph(
        f"Accuracy on {len(subject.labels)} images when the recurrence gets only some of the "
        "image's spatial frequencies; 0.5 cycles per cell are stripes one cell wide, and a cell is "
        f"4 pixels. The ring whose loss costs most begins at {edges[worst]:.2f} cycles per cell: "
        f"{share(without[worst].value)} are left of {share(whole.value)}. {told} do about as well "
        "as the whole."
    )
    figure = draw_bands(edges, named, whole)
    page.figure(figure, "bands", "Accuracy without bands of spatial frequencies")


def draw_bands(edges: np.ndarray, named: dict[str, list[Score]], whole: Score) -> Figure:
    """Draws what `band_scores` found, beside the accuracy of the model as it is."""
    drawn = {name: tuple(np.transpose(scores)) for name, scores in named.items()}
    panels = {"beginning of the ring (cycles per cell)": (edges.tolist(), drawn)}
    return curves(panels, "accuracy", whole.value, CHANCE)


def answers_by_step(subject: Subject) -> np.ndarray:
    """Returns the probability (b, T) of a connection if the model were read after each step."""
    steps = subject.run.anatomy.steps
    model = subject.model

    def answers(params: PyTree, images: Array) -> Array:
        x = subject.run.task.preprocess(images)

        def step(state: Any, _: None) -> tuple[Any, Array]:
            logits, state = model.apply({"params": params}, x, state, method="step")
            return state, jax.nn.softmax(logits)[:, 1]

        _, found = jax.lax.scan(step, model.init_state(x), None, steps)
        return jnp.moveaxis(found, 0, 1)

    return subject.measure(answers, subject.images)


def add_answers(page: Page, subject: Subject) -> None:
    """Adds what would be answered after each step."""
    if not subject.spectral_blocks or not subject.model.last_only:
        return
    found, labels = answers_by_step(subject), subject.labels
    right = ((found > CHANCE) == (labels == 1)[:, None]).mean(0)
    late = int(np.argmax(right >= right[-1] - 0.02)) + 1
    page.section("The answer, step by step")
    page.paragraph(
        f"What the model says if it is read after 1, 2, ... {len(right)} steps, though it was "
        f"trained to be read after the last alone. After the first step it is right on "
        f"{share(right[0], 0)} of {len(labels)} images, after the last on {share(right[-1], 0)}; "
        f"from step {late} on it is within two points of that."
    )
    figure = answers_over_time(found, labels, CLASSES)
    page.figure(figure, "answers_over_time", "Answers after each step")
