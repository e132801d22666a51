"""Sections of the Pathfinder report on what the model does: kernels, gates, gradients, states."""

import math

import numpy as np

from common.analysis import (
    Page,
    attribution_maps,
    attribution_over_time,
    gates_over_time,
    kernel_grid,
    states_over_time,
)
from common.data.pathfinder.features import LIT
from experiments.reports import measurements as measure
from experiments.reports.measurements import Predictions
from experiments.reports.run import CLASSES, Run
from experiments.reports.wording import share

GATED = 256
"""Held-out images behind the gate curves."""

DIFFERENTIATED = 64
"""Held-out images behind the gradients."""

CLEAR_GAP = 0.5
"""Difference of two means, in standard deviations, that is worth a remark."""


def add_kernels(page: Page, run: Run) -> None:
    """Adds the spatial kernels of every block that has such."""
    for block, kernels in run.anatomy.kernels.items():
        energy = np.sort((kernels**2).sum((1, 2)))[::-1]
        top = max(1, len(energy) // 4)
        rows, columns = kernels.shape[1:]
        page.section(f"Learned kernels of {block}")
        page.paragraph(
            f"One spatial kernel for each of {len(kernels)} channels, {rows} x {columns} cells of "
            "the model's map, strongest first, all on one colour scale. At every time step the "
            "states spread once through these patterns: red cells pass activity on with the same "
            f"sign, blue ones with the opposite sign. The strongest {top} hold "
            f"{share(energy[:top].sum() / energy.sum(), 0)} of the summed squares. Neighbouring "
            f"weights correlate by {_smoothness(kernels):.2f}; noise without structure, as at the "
            "start of training, gives 0."
        )
        page.figure(kernel_grid(kernels), f"kernels-{_slug(block)}", f"Kernels of {block}")


def _smoothness(kernels: np.ndarray) -> float:
    """Returns the correlation of weights that lie beside or above each other."""
    one = np.concatenate([kernels[:, :, :-1].ravel(), kernels[:, :-1].ravel()])
    other = np.concatenate([kernels[:, :, 1:].ravel(), kernels[:, 1:].ravel()])
    return float(np.corrcoef(one, other)[0, 1]) if one.size else 0.0


def add_gates(page: Page, run: Run) -> None:
    """Adds the gates over time of every block that has such."""
    if not run.anatomy.gates:
        return
    labels, images = run.predictions.labels[:GATED], run.data.images[:GATED]
    for block, gates in measure.gate_values(run.task, run.params, run.anatomy, images).items():
        means = {name: gate.mean for name, gate in gates.items()}
        page.section(f"Gates of {block} over time")
        page.paragraph(_describe_gates(means, labels, run.split))
        ranges = {name: gate.middle for name, gate in gates.items()}
        figure = gates_over_time(means, labels, CLASSES, ranges)
        page.figure(figure, f"gates-{_slug(block)}", f"Gates of {block} by step and label")


def _describe_gates(means: dict[str, np.ndarray], labels: np.ndarray, split: str) -> str:
    change = {name: abs(v[-1].mean() - v[0].mean()) for name, v in means.items()}
    gap = {name: abs(_standardised_gap(v[-1], labels)) for name, v in means.items()}
    most, apart = max(change, key=change.__getitem__), max(gap, key=gap.__getitem__)
    first, last = means[most][0].mean(), means[most][-1].mean()
    known = "do carry some of" if gap[apart] > CLEAR_GAP else "hardly know"
    return (
        "The gates set how strongly the states decay, mix and take in the image at each of "
        f"{len(means[most])} time steps. The lines are means over frequencies and {len(labels)} "
        f"{split} images; the grey band holds the middle 80 % of frequencies. {most} changes "
        f"most, from {first:.2f} at the first step to {last:.2f} at the last. The two kinds of "
        f"image differ most in {apart}: at the last step by {gap[apart]:.1f} standard deviations, "
        f"so the gates {known} the answer."
    )


def _standardised_gap(values: np.ndarray, labels: np.ndarray) -> float:
    """Returns the difference of the two labels' means in units of the spread within a label."""
    positive, negative = values[labels == 1], values[labels == 0]
    spread = math.sqrt((positive.var() + negative.var()) / 2)
    return float(positive.mean() - negative.mean()) / spread if spread > 0 else 0.0


def add_attribution(page: Page, run: Run) -> None:
    """Adds the gradient of the answer by frame, for a model with time steps, and by pixel."""
    labels, images = run.predictions.labels[:DIFFERENTIATED], run.data.images[:DIFFERENTIATED]
    steps = run.anatomy.steps
    pixels = measure.pixel_attribution(run.task, run.params, images, labels, steps)
    if steps > 1:
        _add_attribution_over_time(page, pixels.sum((-2, -1)), labels)
    maps, lit = pixels.sum(1), images > LIT
    on_lit = float((maps * lit).sum() / maps.sum())
    chosen = np.concatenate([np.flatnonzero(labels == 1)[:3], np.flatnonzero(labels == 0)[:3]])
    summed = ", summed over time" if steps > 1 else ""
    page.section("Where the answer comes from in the image")
    page.paragraph(
        "Below each image, how much a small change of each pixel would move the true answer's "
        f"logit (the absolute gradient{summed}); bright is much, each map on its own scale. Over "
        f"{len(images)} images, {share(on_lit, 0)} of the gradient falls on lit pixels, which "
        f"cover {share(lit.mean(), 0)} of the image. A model that follows the contours is bright "
        "along them, not at the discs alone."
    )
    captions = [CLASSES[labels[i]] for i in chosen]
    figure = attribution_maps(images[chosen], maps[chosen], captions)
    page.figure(figure, "attribution_maps", "Images above the gradient of their pixels")


def _add_attribution_over_time(page: Page, attribution: np.ndarray, labels: np.ndarray) -> None:
    steps = attribution.shape[1]
    part = attribution.sum(0) / attribution.sum()
    page.section("When the answer is made")
    page.paragraph(
        f"The still image is shown as a film of {steps} equal frames. A bar says how much a small "
        "change of one frame alone would move the true answer's logit: the absolute gradient, "
        f"summed over its pixels, mean over {len(labels)} images with its 95 % interval. The last "
        f"frame carries {share(part[-1], 0)} of the total, the first {share(part[0], 0)}, the "
        f"first half {share(part[: steps // 2].sum(), 0)}; if all counted alike, each would carry "
        f"{share(1 / steps, 0)}. Early frames reach the answer only through the recurrence."
    )
    figure = attribution_over_time(attribution, labels, CLASSES)
    page.figure(figure, "attribution_over_time", "Gradient of each frame and its running sum")


def add_states(page: Page, run: Run) -> None:
    """Adds the states in space, step by step, of every block that has such."""
    picked = [_typical(run.predictions, label) for label in (1, 0)]
    numbers = np.array([number for number in picked if number is not None])
    if not len(numbers):
        return
    images = run.data.images[numbers]
    captions = [CLASSES[run.predictions.labels[i]] for i in numbers]
    for block in run.anatomy.states:
        energy = measure.state_energy(run.task, run.params, block, images)
        names = run.anatomy.state_names(block)
        mean = energy.mean((0, 3, 4))
        growth = ", ".join(
            f"{name} {m[-1] / m[0]:.1f}-fold" for name, m in zip(names, mean, strict=True)
        )
        page.section(f"States of {block} over time")
        page.paragraph(
            "Where each state is strong (root mean square over channels of what differs from the "
            f"map's mean) at each of {energy.shape[2]} steps, for an image of each kind whose "
            "answer is right with middling confidence. Brighter is stronger, and all panels of "
            "one state share a scale: from the first step to the last their mean changes "
            f"{growth}. The image enters anew at every step, so its contours show from the first "
            "on; what comes in between them and around them is what the recurrence adds."
        )
        figure = states_over_time(images, energy, captions, names)
        page.figure(figure, f"states-{_slug(block)}", f"States of {block} at each step")


def _typical(predictions: Predictions, label: int) -> int | None:
    """Returns the number of the right answer of median confidence among images of a label."""
    right = np.flatnonzero(predictions.correct & (predictions.labels == label))
    order = right[np.argsort(predictions.confidence[right], kind="stable")]
    return int(order[len(order) // 2]) if len(order) else None


def _slug(block: str) -> str:
    return block.replace("/", "-")
