"""Sections on gradients: paths from a black image, maps for each step, gates and kernels."""

from typing import Any, NamedTuple

import jax
import numpy as np

from common.analysis import (
    Page,
    PathAttribution,
    attribution_maps,
    integrated_gradients,
    kernel_gradients,
    mean_magnitude,
    mechanisms,
    parameter_gradients,
    states_over_time,
)
from common.array_types import Array, PyTree
from experiments.analyses.subject import Subject
from experiments.reports import measurements
from experiments.reports.run import CLASSES
from experiments.reports.wording import share

EXAMPLES = 2
"""Images of each kind that are shown."""

DIFFERENTIATED = 16
"""Images behind the gradients of parameters."""

PATH_STEPS = 256
"""Points of the path integral; on the way from black to the image the logit bends sharply."""


def step_maps(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Returns |d logit / d pixel| (2, T, s, s) of every frame, and the numbers of the images."""
    numbers = subject.examples(1)
    images, labels = subject.images[numbers], subject.labels[numbers]
    steps = subject.run.anatomy.steps
    return (
        measurements.pixel_attribution(subject.run.task, subject.params, images, labels, steps),
        numbers,
    )


def add_step_maps(page: Page, subject: Subject) -> None:
    """Adds where each frame of a film counts."""
    if subject.run.anatomy.steps < 2:
        return
    maps, numbers = step_maps(subject)
    page.section("Where each frame counts")
    part = maps.sum((-2, -1)) / maps.sum((-3, -2, -1))[:, None]
    page.paragraph(
        "The gradient of the true answer with respect to each pixel of each frame, of a film of "
        "equal frames; one image of each kind, all panels on one scale. "
        f"The first frame carries {share(part[:, 0].mean(), 0)} of the whole, the last one "
        f"{share(part[:, -1].mean(), 0)}."
    )
    captions = [CLASSES[subject.labels[i]] for i in numbers]
    figure = states_over_time(subject.images[numbers], maps[:, None], captions, ["gradient"])
    page.figure(figure, "attribution_by_step", "Gradient of each pixel of each frame")


def path_attribution(subject: Subject) -> tuple[PathAttribution, np.ndarray]:
    """Returns integrated gradients of the true logit from a black image, and the images' numbers.

    The images are still ones, and the baseline has no light, markers included.
    """
    numbers = subject.examples(EXAMPLES)
    black = subject.run.task.preprocess(np.zeros_like(subject.images[:1]))  # type: ignore[arg-type]

    def integrate(params: PyTree, x: Array, target: Array) -> PathAttribution:
        return integrated_gradients(
            lambda x: subject.apply(params, x), x, target, black[0][None], PATH_STEPS
        )

    labels = subject.labels[numbers]
    found = jax.jit(integrate)(subject.params, subject.frames(numbers), labels)
    return jax.tree.map(np.asarray, found), numbers


def add_path_attribution(page: Page, subject: Subject) -> None:
    """Adds integrated gradients with their completeness error."""
    found, numbers = path_attribution(subject)
    maps = np.abs(found.values).sum(-1)
    page.section("What each pixel adds on the way from a black image")
    page.paragraph(
        f"Integrated gradients ({PATH_STEPS} points): the gradient of the true logit, averaged on "
        "the straight way from a black image to the image, times the pixel. They sum to the change "
        "of the logit where the integral is exact; here the changes are "
        f"{', '.join(f'{x:.2f}' for x in found.change)} and the sums differ from them by "
        f"{', '.join(f'{x:+.2f}' for x in found.error)} (completeness error, largest "
        f"{share(np.abs(found.error / found.change).max(), 0)} of the change)."
    )
    captions = [CLASSES[subject.labels[i]] for i in numbers]
    figure = attribution_maps(subject.images[numbers], maps, captions)
    page.figure(figure, "integrated_gradients", "Images above their integrated gradients")


class Mechanisms(NamedTuple):
    """Gradients of the true answer's logit with respect to a block's parameters.

    Attributes:
        magnitudes: by gate or kernel the mean |gradient| over its numbers, for each image (b,).
        kernels: by kernel its gradient for each label, (2, k, l), mean over images and channels.
        labels: (b,) of the images.
    """

    magnitudes: dict[str, np.ndarray]
    kernels: dict[str, np.ndarray]
    labels: np.ndarray


def mechanism_gradients(subject: Subject, block: str) -> Mechanisms:
    """Differentiates the true answer of some images with respect to a block's parameters."""
    labels = subject.labels[:DIFFERENTIATED]
    gates = [name for name in subject.run.anatomy.gates.get(block, [])]
    kernels = [k for k, v in subject.params[block].items() if getattr(v, "ndim", 0) == 3]

    def summaries(params: PyTree, x: Array, target: Array) -> Any:
        found = parameter_gradients(subject.apply, params, x, target)[block]
        magnitudes = {name: mean_magnitude(found[name]) for name in [*gates, *kernels]}
        return magnitudes, {name: found[name].mean(1) for name in kernels}

    x = subject.frames(slice(0, DIFFERENTIATED))
    magnitudes, by_image = jax.tree.map(np.asarray, jax.jit(summaries)(subject.params, x, labels))
    return Mechanisms(
        {name: magnitudes[name] for name in [*gates, *kernels]},
        {
            name: np.stack([values[labels == label].mean(0) for label in (0, 1)])
            for name, values in by_image.items()
        },
        labels,
    )


def add_mechanisms(page: Page, subject: Subject) -> None:
    """Adds the gradients of gates and kernels, by label."""
    for block in subject.spectral_blocks:
        found = mechanism_gradients(subject, block)
        if len(found.magnitudes) - len(found.kernels) < 2:
            continue
        means = {name: float(v.mean()) for name, v in found.magnitudes.items()}
        kernels = ", ".join(f"{name} has {means[name]:.2g}" for name in found.kernels)
        order = sorted(means.keys() - found.kernels, key=means.__getitem__, reverse=True)
        page.section(f"Which mechanisms of {block} the answer hangs on")
        page.paragraph(
            f"The gradient of the true answer's logit with respect to each gate's weights and "
            f"biases, mean magnitude over {len(found.labels)} images. It says how much a small "
            "change of every weight would move the answer, not what the mechanism is for, and it "
            f"depends on how many weights share the work. Largest: {order[0]} "
            f"({means[order[0]]:.2g}), then {order[1]} ({means[order[1]]:.2g}); least: "
            f"{order[-1]} ({means[order[-1]]:.2g}). Beside them, {kernels}."
        )
        figure = mechanisms({n: found.magnitudes[n] for n in order}, found.labels, CLASSES)
        page.figure(figure, f"mechanisms-{block}", f"Gradients of the mechanisms of {block}")
        for kernel, (negative, positive) in found.kernels.items():
            alike = float(np.corrcoef(negative.ravel(), positive.ravel())[0, 1])
            page.paragraph(
                f"How {kernel} would have to change to make each answer surer where it is true, "
                "mean over images and channels. The two correlate by "
                f"{alike:.2f}: {_meaning(alike)}."
            )
            drawn = kernel_gradients((negative, positive), CLASSES)
            page.figure(drawn, f"kernel_gradients-{block}-{kernel}", "Kernel gradients by label")


def _meaning(correlation: float) -> str:
    if correlation < -0.3:
        return "what would help the one answer would hurt the other"
    return "much the same change would help both" if correlation > 0.3 else "they are unrelated"
