"""Sections of the Pathfinder report on what the run reached: scores, curves, samples, distances."""

import math

import numpy as np
from matplotlib.figure import Figure

from common.analysis import (
    Page,
    accuracy_by_distance,
    binned_accuracy,
    comparison,
    image_grid,
    learning_curves,
    style,
)
from experiments.reports import measurements as measure
from experiments.reports.measurements import Score
from experiments.reports.run import CHANCE, CLASSES, Run
from experiments.reports.wording import interval, share

SAMPLES = 12
MODEL = "this model"
LOGISTIC = "what it says, by logistic regression"
KNOWLEDGE = {
    MODEL: "the image",
    measure.MAJORITY: "which answer is commoner",
    "marker distance": "the distance between the discs and its powers to the cube",
    "lit fraction": "how much of the image is lit",
    "marker positions": "where the discs are, and how far from the centre",
    "light near the markers": "how much light lies around each disc, within three distances",
    "components": "how many connected pieces there are",
    "all of these": "the five above together",
    "headings at the markers": "the angle between the dash at each disc and the direction to "
    "the other disc",
}


def add_result(page: Page, run: Run) -> None:
    """Adds the score in one sentence, what the task is, and what shortcuts would score."""
    predictions, data = run.predictions, run.config.data
    score, count = Score.of(predictions.correct), len(predictions.labels)
    page.lead(
        f"The model is right on {predictions.correct.sum():,} of {count:,} {run.split} images "
        f"that it did not learn from: {share(score.value)} (95 % interval {interval(score)}), "
        f"where guessing gives {share(CHANCE, 0)}."
    )
    page.paragraph(
        f"In each image, {data.image_size} pixels wide, two discs lie on dashed contours of "
        f"{data.contour_length} dashes among others that distract. The question is whether the "
        "discs are the two ends of one contour; in "
        f"{share(predictions.labels.mean(), 0)} of the {run.split} images they are."
    )
    page.paragraph(
        f"The loss on the same images is {predictions.loss.mean():.3f} nats (cross entropy; "
        f"{math.log(2):.3f} for a guess). {_compare_with_record(run, score)}"
    )
    scores = {MODEL: score, **measure.shortcuts(run.data)}
    page.paragraph(_compare_with_shortcuts(scores))
    figure = comparison(list(scores), *zip(*scores.values(), strict=True), chance=CHANCE)
    page.figure(figure, "comparison", "Accuracy of the model and of shortcuts")
    page.table(
        ("answers come from", "accuracy", "95 % interval", "what it knows"),
        [
            (name, share(s.value), interval(s), KNOWLEDGE.get(name, LOGISTIC))
            for name, s in scores.items()
        ],
    )


def _compare_with_record(run: Run, score: Score) -> str:
    """Says whether the run's own record holds the accuracy that was measured here."""
    recorded = run.result.get(run.split, {}).get("accuracy")
    if recorded is None:
        return "The run has not ended yet; these are the scores of its parameters so far."
    if abs(recorded - score.value) > 0.5 / len(run.predictions.labels):
        return f"The run's own record, result.json, has an accuracy of {share(recorded, 2)}."
    return "The accuracy is that of the run's own record, result.json."


def _compare_with_shortcuts(scores: dict[str, Score]) -> str:
    model = scores[MODEL]
    best = max((name for name in scores if name != MODEL), key=lambda name: scores[name].value)
    gain = f"{100 * (model.value - scores[best].value):+.1f} points"
    verdict = (
        f"The model is clearly above it: {gain}."
        if model.low > scores[best].high
        else f"The model is not clearly above it: {gain}, and the two intervals meet."
    )
    return (
        "Can the answer be had without following a contour? Some attempts, ten-fold "
        f"cross-validated on the same images, say how far one comes. The best ({best}) reaches "
        f"{share(scores[best].value)}. {verdict}"
    )


def add_curves(page: Page, run: Run) -> None:
    """Adds loss and accuracy over the training steps, once both have been recorded."""
    validation = [r for r in run.records if r["split"] == "validation" and "accuracy" in r]
    training = [r for r in run.records if r["split"] == "train" and "accuracy" in r]
    if not training or not validation:
        return
    kept = run.result.get("best_step")
    best = max(validation, key=lambda r: r["accuracy"])
    marked = "" if kept is None else f"The dashed line marks step {kept:,}, which was kept. "
    page.section("Learning")
    page.paragraph(
        f"Loss and accuracy over {run.last_step:,} training steps of "
        f"{run.config.train.batch_size} images. The orange line is the mean over the training "
        "images since the point before, the blue one the held-out validation images with their "
        f"95 % interval. Validation accuracy was best at step {best['step']:,}: "
        f"{share(best['accuracy'])}. {marked}At the end, accuracy stands at "
        f"{share(training[-1]['accuracy'])} in training and {share(validation[-1]['accuracy'])} "
        "in validation; a wide gap between the two would mean that the model learns its training "
        "images by heart."
    )
    figure = learning_curves(run.records, chance=CHANCE, best_step=kept)
    page.figure(figure, "learning_curves", "Loss and accuracy over the training steps")


def add_samples(page: Page, run: Run) -> None:
    """Adds images with the model's answers: the first right ones and the surest wrong ones."""
    predictions, count = run.predictions, len(run.predictions.labels)
    wrong, right = predictions.mistakes(), np.flatnonzero(predictions.correct)[:SAMPLES]
    page.section("Sample images and answers")
    if len(right):
        page.paragraph(
            f"The first {len(right)} {run.split} images that the model gets right. Above each is "
            "its answer, with the probability that it gives to it."
        )
        figure = _draw_samples(run, right, style.BLUE)
        page.figure(figure, "samples_right", "Images that the model answers rightly")
    if not len(wrong):
        page.paragraph(f"It gets none of the {count:,} images wrong.")
        return
    missed = int((predictions.labels[wrong] == 1).sum())
    sure = float((predictions.confidence[wrong] > 0.9).mean())
    page.paragraph(
        f"It gets {len(wrong):,} of {count:,} images wrong: {missed:,} connected ones that it "
        f"calls not connected and {len(wrong) - missed:,} the other way round. Below are the "
        f"{min(SAMPLES, len(wrong))} mistakes that it is surest of. In {share(sure, 0)} of all "
        "mistakes it gives its wrong answer more than 90 %."
    )
    figure = _draw_samples(run, wrong[:SAMPLES], style.VERMILION)
    page.figure(figure, "samples_wrong", "Images that the model answers wrongly, surest first")


def _draw_samples(run: Run, numbers: np.ndarray, colour: str) -> Figure:
    answers = (run.predictions.probability[numbers] > 0.5).astype(int)
    confidence = np.floor(100 * run.predictions.confidence[numbers])
    captions = [f"{CLASSES[a]}, {c:.0f} %" for a, c in zip(answers, confidence, strict=True)]
    return image_grid(run.data.images[numbers], captions, [colour] * len(numbers))


def add_distance(page: Page, run: Run) -> None:
    """Adds the accuracy by distance of the discs."""
    distances = np.asarray(run.data.marker_distances)
    correct, labels = run.predictions.correct, run.predictions.labels
    groups = binned_accuracy(distances, correct)
    means = [distances[labels == label].mean() for label in (0, 1)]
    page.section("Accuracy by distance of the discs")
    page.paragraph(
        f"{len(groups)} groups of about {groups[:, 6].mean():.0f} images, by the distance between "
        "the discs in units of the published 300-pixel images. In the nearest group "
        f"{_describe_group(groups[0])}, in the farthest {_describe_group(groups[-1])}. Below, "
        f"how often each distance occurs: on average it is {means[1]:.1f} in connected and "
        f"{means[0]:.1f} in not connected images. Where the two outlines differ, distance alone "
        "would betray the answer."
    )
    figure = accuracy_by_distance(distances, correct, labels, CLASSES, CHANCE)
    page.figure(figure, "accuracy_by_distance", "Accuracy and number of images by disc distance")


def _describe_group(group: np.ndarray) -> str:
    _, near, far, *score, _ = group
    accuracy = Score(*score)
    return f"({near:.3g} to {far:.3g}) accuracy is {share(accuracy.value)} ({interval(accuracy)})"
