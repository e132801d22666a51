"""Sections on the contour, whose geometry the generator knows: cuts, and traces along it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from common.analysis import (
    Page,
    ProbeScore,
    curves,
    image_grid,
    linear_probe,
    sample_along,
    traces,
)
from common.array_types import Array, PyTree
from common.data.pathfinder import draw_without
from cssm.recurrence import state_histories, state_names
from experiments.analyses.subject import Subject
from experiments.reports.measurements import Score
from experiments.reports.run import CHANCE
from experiments.reports.wording import interval, share

CUT = 64
"""Connected images that are cut."""

PAIRS = 32
"""Pairs of images that are compared."""

PROBED = 128
"""Connected images behind the probes."""


class Cuts(NamedTuple):
    """Shares of connected images that are still answered 'connected' when paddles are missing.

    Attributes:
        whole: with nothing missing.
        own: by place, without one paddle of the contour that joins the discs.
        other: by place, without one paddle of a contour of the same length beside it.
        own_gap: by width, without the 1, 2, ... paddles in the middle of the first.
        other_gap: by width, without those of the other.
        count: images.
    """

    whole: Score
    own: list[Score]
    other: list[Score]
    own_gap: list[Score]
    other_gap: list[Score]
    count: int


def cut_image(subject: Subject, number: int, paddles: Sequence[int]) -> np.ndarray:
    """Returns an image (s, s) uint8 without some paddles.

    Args:
        subject: with generated images.
        number: of the image.
        paddles: from 0; those of the first disc's contour come first, then those of another contour
            of the same length.

    Raises:
        UserError: the images were not generated here.
    """
    subject.scene(number)
    assert subject.scenes is not None
    return draw_without(subject.settings, subject.scenes, number, paddles)


def middle_paddles(length: int, width: int) -> list[int]:
    """Returns the numbers of the `width` paddles in the middle of a contour."""
    first = (length - width) // 2
    return list(range(first, first + width))


def cut_contours(subject: Subject) -> Cuts:
    """Cuts contours of connected images and asks the model again."""
    length = subject.settings.contour_length
    numbers = np.flatnonzero(subject.labels == 1)[:CUT]

    def connected(paddles: Sequence[int]) -> Score:
        images = np.stack([cut_image(subject, int(n), paddles) for n in numbers])
        return Score.of(subject.probability(images) > CHANCE)

    def both(of_one: list[list[int]]) -> tuple[list[Score], list[Score]]:
        return (
            [connected(paddles) for paddles in of_one],
            [connected([length + paddle for paddle in paddles]) for paddles in of_one],
        )

    one = both([[paddle] for paddle in range(length)])
    gaps = both([middle_paddles(length, width) for width in range(1, max(2, length - 1))])
    return Cuts(connected([]), *one, *gaps, len(numbers))


def add_cuts(page: Page, subject: Subject) -> None:
    """Adds whether a cut contour turns the answer."""
    if subject.scenes is None:
        return
    found = cut_contours(subject)
    inner = [score.value for score in found.own[1:-1]] or [found.own[0].value]
    widest, control = found.own_gap[-1], found.other_gap[-1]
    page.section("When the contour is cut")
    page.paragraph(
        f"From {found.count} connected images paddles are taken out, and nothing else is changed. "
        f"Whole, {share(found.whole.value, 0)} of them are answered 'connected' "
        f"({interval(found.whole)}). Without one inner paddle of the contour between the discs it "
        f"is {share(min(inner), 0)} to {share(max(inner), 0)}, depending on which; without "
        f"{len(found.own_gap)}, all but its ends, {share(widest.value, 0)} ({interval(widest)}). "
        "The control takes as many out of the other long contour, which carries one disc fewer: "
        f"{share(control.value, 0)} ({interval(control)}). {_verdict(widest, control)}"
    )
    page.figure(draw_cut_examples(subject), "cut_examples", "Images with contours cut")
    page.figure(draw_cuts(found), "cuts", "Answers by place and width of the cut")


def draw_cut_examples(subject: Subject, count: int = 2) -> Figure:
    """Draws connected images whole, and with the middle of either contour taken out."""
    length = subject.settings.contour_length
    missing = middle_paddles(length, max(1, length - 2))
    cuts = {"whole": [], "contour cut": missing, "other cut": [length + p for p in missing]}
    numbers = subject.examples(count)[:count]
    shown = np.stack([cut_image(subject, int(n), p) for n in numbers for p in cuts.values()])
    answers = subject.probability(shown)
    captions = [
        f"{w}\nconnected: {share(p, 0)}" for w, p in zip([*cuts] * count, answers, strict=True)
    ]
    return image_grid(shown, captions, columns=len(shown))


def draw_cuts(found: Cuts) -> Figure:
    """Draws the answers by place and by width of the cut."""
    table = {
        "paddle that is missing": (found.own, found.other),
        "paddles missing in the middle": (found.own_gap, found.other_gap),
    }
    names = ("contour between the discs", "other contour")
    panels = {
        label: (
            list(range(1, len(scores[0]) + 1)),
            {name: tuple(np.transpose(s)) for name, s in zip(names, scores, strict=True)},
        )
        for label, scores in table.items()
    }
    return curves(panels, "answered 'connected'", found.whole.value)


def _verdict(own: Score, other: Score) -> str:
    if own.high < other.low:
        return "The answer hangs on the contour between the discs more than on its neighbour."
    if other.high < own.low:
        return "The answer hangs on the neighbour more than on the contour between the discs."
    return "The answer does not tell the two apart: it is not a trace from disc to disc alone."


def contour_points(subject: Subject, number: int) -> np.ndarray:
    """Returns the middles of the paddles of both long contours, (2, length, 2) shares of the image.

    The first is the contour of the first disc, which is at its first point.
    """
    paddles = subject.scene(number).paddles[: 2 * subject.settings.contour_length]
    middles = (paddles[:, :2] + paddles[:, 2:]) / 2 / subject.settings.window
    return middles.reshape(2, -1, 2)


def _states(subject: Subject, block: str, images: np.ndarray) -> np.ndarray:
    """Returns the states (b, T, c, n, h, w) of images."""

    def states(params: PyTree, images: Array) -> Array:
        x = subject.run.task.preprocess(images)
        found = state_histories(subject.model, {"params": params}, x)[block]
        return found.transpose(1, 0, 4, 5, 2, 3)

    return subject.measure(states, images, batch=16)


def pair_traces(subject: Subject, block: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the second disc's place makes a difference to the states, step by step.

    The images of a pair differ in nothing but the second disc: on the head of the first disc's
    contour in one, on the head of the other contour in the other. For each state, the root mean
    square over channels of the difference between the two, in units of its root mean square over
    the map at that step, is read at every paddle.

    Returns:
        (n, 2, T, length): state; the first disc's contour or the other; step; paddle; and (n, T)
        the same over the whole map. Means over pairs.
    """
    chosen = np.arange(2 * min(PAIRS, len(subject.labels) // 2))
    states = _states(subject, block, subject.images[chosen])
    difference = np.sqrt(((states[::2] - states[1::2]) ** 2).mean(2))  # b T n h w
    everywhere = difference.mean((0, -2, -1)).T  # n T
    centred = states - states.mean((-2, -1), keepdims=True)
    size = np.sqrt((centred**2).mean((2, -2, -1)).mean(0))  # T n
    found = [
        [sample_along(maps, points) for points in contour_points(subject, int(number))]
        for maps, number in zip(difference, chosen[::2], strict=True)
    ]  # b 2 T n p
    along = np.mean(found, 0).transpose(2, 0, 1, 3) / size.T[:, None, :, None]
    return along, everywhere / size.T


def add_traces(page: Page, subject: Subject) -> None:
    """Adds the trace that the second disc leaves along the contours over time."""
    if subject.scenes is None or subject.settings.layout != "matched":
        return
    for block in subject.spectral_blocks:
        found, everywhere = pair_traces(subject, block)
        name = state_names(subject.model)[block][0]
        own = found[0, 0]
        page.section(f"How the news travels along the contour in {block}")
        page.paragraph(
            "The two images of a pair differ only in which head the second disc stands on. Shown "
            f"is how much the state {name} differs between them at each paddle, in units of the "
            "state's own spread over the map at that step, mean over "
            f"{min(PAIRS, len(subject.labels) // 2)} pairs; on the right, over the whole map. "
            "After the first step the difference is where the disc is in one image and not in the "
            f"other ({own[0, -1]:.2f} at the head, {own[0, 0]:.2f} at the tail, "
            f"{own.shape[1] - 1} paddles away, {everywhere[0, 0]:.2f} over the map). After "
            f"{len(own)} steps it is {own[-1, 0]:.2f} at the tail and {everywhere[0, -1]:.2f} over "
            f"the map: {_where(own[-1].mean(), everywhere[0, -1])}."
        )
        figure = draw_traces(found[0], everywhere[0])
        page.figure(figure, f"traces-{block}", "Difference along the contours over time")


def draw_traces(along: np.ndarray, everywhere: np.ndarray) -> Figure:
    """Draws what `pair_traces` found for one state, (2, T, length) and (T,)."""
    named = {"contour of the first disc": along[0], "other contour": along[1]}
    named["whole map"] = everywhere[:, None]
    return traces(named, "difference between the images", ("tail", "head"))


def _where(contours: float, everywhere: float) -> str:
    if contours > 1.5 * everywhere:
        return "the news has stayed on the contours"
    return "the news is nearly everywhere, and not on the contours alone"


def marked_probes(subject: Subject, block: str) -> list[ProbeScore]:
    """Tells after each step, from the states at one place, whether its contour joins the discs.

    In connected images, the inner paddles of the contour between the discs against those of the
    other long contour, by logistic regression on all states and channels at the place, each image
    being answered by a fit to other images.
    """
    numbers = np.flatnonzero(subject.labels == 1)[:PROBED]
    states = _states(subject, block, subject.images[numbers])
    length = subject.settings.contour_length
    inner = slice(1, -1) if length > 2 else slice(None)
    features, labels = [], []
    for maps, number in zip(states, numbers, strict=True):
        for label, points in zip((1, 0), contour_points(subject, int(number)), strict=True):
            read = sample_along(maps, points[inner])  # T c n p
            features.append(np.moveaxis(read, -1, 0).reshape(read.shape[-1], len(read), -1))
            labels += [label] * read.shape[-1]
    table = np.concatenate(features)  # places T d
    group = 2 * len(features[0])
    return [
        linear_probe(table[:, step], np.array(labels), group=group, penalty=1e-2)
        for step in range(table.shape[1])
    ]


def add_probes(page: Page, subject: Subject) -> None:
    """Adds how soon a place of a contour knows whether its contour joins the discs."""
    if subject.scenes is None or int((subject.labels == 1).sum()) < 20:
        return
    for block in subject.spectral_blocks:
        scores = marked_probes(subject, block)
        page.section(f"What a place of a contour knows in {block}")
        page.paragraph(
            "In connected images, from the states at one inner paddle alone: does this contour "
            "join the discs, or is it the other long contour? Logistic regressions, each image "
            f"answered by fits to others, {scores[0].count} places. After the first step they are "
            f"right in {share(scores[0].accuracy, 0)} ({interval(Score(*scores[0][:3]))}), after "
            f"the last in {share(scores[-1].accuracy, 0)} ({interval(Score(*scores[-1][:3]))}); a "
            "guess is right in 50 %."
        )
        figure = draw_probes(scores)
        page.figure(figure, f"probes-{block}", "Accuracy of probes on a contour over time")


def draw_probes(scores: Sequence[ProbeScore]) -> Figure:
    """Draws the accuracy of probes over the steps."""
    named = {"from the states at one place": tuple(np.transpose([s[:3] for s in scores]))}
    panels = {"time step": (list(range(1, len(scores) + 1)), named)}
    return curves(panels, "places told rightly", None, CHANCE)
