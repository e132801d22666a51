"""Sections on the recurrence itself: gates, spectra, impulses, reach, and the states in motion."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common.analysis import (
    Page,
    capture,
    field_radius,
    gate_maps,
    impulse_maps,
    joint_gain,
    radius_by_frequency,
    receptive_field,
    receptive_fields,
    spectral_radius,
    states_gif,
)
from common.array_types import Array, PyTree
from cssm.gate_values import mean_parameter_gates
from cssm.recurrence import impulse_responses, state_histories, state_names, transition_matrices
from experiments.analyses.subject import Subject
from experiments.reports.run import CLASSES
from experiments.reports.wording import share

MEASURED = 16
"""Images behind gates by frequency."""

REACHED = 12
"""Images behind the receptive field."""

SHARES = {"holds half of the squares": 0.5, "holds 90 %": 0.9}


class GateReading(NamedTuple):
    """One gate in numbers.

    Attributes:
        mean: over images, steps and frequencies, as measured.
        low: below it lie 10 % of all its values.
        high: above it lie 10 %.
        of_mean_parameters: true bound of the mean of kernel plus the mean of bias.
        as_in_the_notebooks: plain sigmoid of the same.
    """

    mean: float
    low: float
    high: float
    of_mean_parameters: float
    as_in_the_notebooks: float


def gate_values(subject: Subject, block: str) -> dict[str, np.ndarray]:
    """Returns every gate of a block, (b, T, h, f), on the first images."""
    names = subject.run.anatomy.gates[block]

    def gates(params: PyTree, images: Array) -> Array:
        x = subject.run.task.preprocess(images)
        named = capture(subject.model, {"params": params}, x)[1]
        found = jnp.stack([named[f"{block}/gates/{name}"][..., 0] for name in names])
        return jnp.moveaxis(found, 2, 0)

    values = subject.measure(gates, subject.images[:MEASURED], batch=MEASURED)
    return dict(zip(names, np.moveaxis(values, 1, 0), strict=True))


def read_gates(subject: Subject, block: str) -> dict[str, GateReading]:
    """Returns every gate of a block as measured, and as its parameters alone would have it."""
    true = mean_parameter_gates(subject.model, subject.params)[block]
    plain = mean_parameter_gates(subject.model, subject.params, "plain_sigmoid")[block]
    readings = {}
    for name, values in gate_values(subject, block).items():
        low, high = np.quantile(values, (0.1, 0.9)).tolist()
        readings[name] = GateReading(float(values.mean()), low, high, true[name], plain[name])
    return readings


def add_gates(page: Page, subject: Subject) -> None:
    """Adds the gates by frequency, and what the parameters alone would say of them."""
    for block in subject.spectral_blocks:
        if block not in subject.run.anatomy.gates:
            continue
        values, readings = gate_values(subject, block), read_gates(subject, block)
        spread = {name: float(v.mean((0, 1)).std()) for name, v in values.items()}
        most = max(spread, key=spread.__getitem__)
        off = {name: abs(r.as_in_the_notebooks - r.mean) for name, r in readings.items()}
        worst = max(off, key=off.__getitem__)
        page.section(f"Gates of {block} by spatial frequency")
        page.paragraph(
            f"Every gate has one value for each spatial frequency, shared by the channels; here "
            f"their means over {MEASURED} images and all steps. Zero frequency, the mean of the "
            f"map, is in the middle of the left edge. {most} differs most between frequencies "
            f"(standard deviation {spread[most]:.2f})."
        )
        maps = {name: v.mean((0, 1)) for name, v in values.items()}
        page.figure(gate_maps(maps), f"gate_maps-{block}", f"Gates of {block} by frequency")
        page.paragraph(
            "The same in numbers. The last column is the shortcut of the public notebooks, the "
            "sigmoid of the mean weight plus the mean bias: it is no value that a gate takes, and "
            f"for decays it leaves out their bounds, 0.1 + 0.89 sigmoid. It is farthest off for "
            f"{worst}: {readings[worst].as_in_the_notebooks:.3f} where {readings[worst].mean:.3f} "
            "is measured."
        )
        rows = [
            (name, f"{r.mean:.3f}", f"{r.low:.3f} to {r.high:.3f}", f"{r.of_mean_parameters:.3f}",
             f"{r.as_in_the_notebooks:.3f}")
            for name, r in readings.items()
        ]  # fmt: skip
        header = ("gate", "measured mean", "middle 80 %", "mean parameters, true bound")
        page.table((*header, "mean parameters, plain sigmoid"), rows)


def transition_radius(subject: Subject, block: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns spectral radii (T, h, f, c) and the gain of all steps (h, f, c), for one image."""
    found = jax.jit(lambda p, x: transition_matrices(subject.model, {"params": p}, x)[block])
    matrices = np.asarray(found(subject.params, subject.frames(slice(0, 1))))[:, 0]
    return spectral_radius(matrices), joint_gain(matrices)


def add_spectra(page: Page, subject: Subject) -> None:
    """Adds the spectral radius of the transition by frequency."""
    for block in subject.spectral_blocks:
        radius, gain = transition_radius(subject, block)
        above = (radius > 1).mean()
        page.section(f"What one step of {block} keeps")
        page.paragraph(
            "For each channel and frequency a step multiplies the states by one small matrix. Its "
            "spectral radius is the factor by which a state shrinks or grows if that step is "
            f"repeated for ever: {radius.mean():.2f} on average, {radius.max():.2f} at most, above "
            f"1 in {share(above)} of all cases. The matrices change from step to step, so that "
            f"what counts is the {len(radius)} steps together: they stretch a state by up to "
            f"{gain.mean():.2f} a step on average, {gain.max():.2f} at most."
        )
        width = subject.run.anatomy.states[block][3]
        figure = radius_by_frequency(radius, width)
        page.figure(figure, f"spectral_radius-{block}", f"Spectral radius of {block} by frequency")


def impulses(subject: Subject, block: str) -> tuple[np.ndarray, list[str], int]:
    """Returns what an impulse to each state makes of the first state.

    Of all channels, the one is taken where the response is strongest.

    Returns:
        Rows (m, T, h, w), their names, and the channel.
    """
    names = state_names(subject.model)[block]

    def responses(params: PyTree, x: Array) -> Array:
        variables = {"params": params}
        return jnp.stack(
            [impulse_responses(subject.model, variables, x, i)[block] for i in range(len(names))]
        )[:, :, 0]

    found = np.asarray(jax.jit(responses)(subject.params, subject.frames(slice(0, 1))))
    channel = int((found[:, -1] ** 2).sum((0, 1, 2, 4)).argmax())
    rows = [f"{names[0]} of {source}" for source in names]
    return found[..., channel, 0], rows, channel


def add_impulses(page: Page, subject: Subject) -> None:
    """Adds impulse responses."""
    for block in subject.spectral_blocks:
        rows, names, channel = impulses(subject, block)
        page.section(f"What a single cell becomes in {block}")
        sizes = np.abs(rows).max((-2, -1))
        own = sizes[:, 0].argmax()
        page.paragraph(
            "A one is put into one state at the middle of the map, and nothing else enters; the "
            f"gates are those of an image. The rows show the first state after each step, in "
            f"channel {channel}, where the response is strongest ('{names[-1]}': the first state "
            "after an impulse to the last). Red is "
            "positive, blue negative, and every panel has its own scale, given above it. Patterns "
            "widen as the kernel is applied again; spots beside the middle from the first step on "
            "come from gates that differ between frequencies, which act as kernels as wide as "
            f"the map. The largest first response is {sizes[own, 0]:.2f} ({names[own]}); after "
            f"{rows.shape[1]} steps the largest is {sizes[:, -1].max():.2g}."
        )
        page.figure(impulse_maps(rows, names), f"impulses-{block}", f"Impulse responses of {block}")


def reach(subject: Subject) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the receptive field of the map before the read-out, and its radii.

    Returns:
        (T, H, W) the field in each frame of a film of equal frames, root mean square over images;
        and by name the radius (T,) in each frame, pixels.
    """
    steps = subject.run.anatomy.steps
    numbers = subject.examples(REACHED // 2)

    def field(params: PyTree, still: Array) -> Array:
        def features(x: Array) -> Array:
            return capture(subject.model, {"params": params}, x)[1]["post_cssm"][:, -1]

        return receptive_field(features, jnp.repeat(still[:, None], steps, 1))

    found = np.asarray(jax.jit(field)(subject.params, subject.frames(numbers)))
    mean = np.sqrt((found**2).mean(0))
    size = mean.shape[-1]
    centre = _centre_of_place(size)
    return mean, {name: field_radius(mean, part, centre) for name, part in SHARES.items()}


def _centre_of_place(size: int) -> tuple[float, float]:
    """Returns the pixel that the map's middle cell, of 4 x 4 pixels, is centred on."""
    middle = 4 * (size // 4 // 2) + 1.5
    return middle, middle


def add_reach(page: Page, subject: Subject) -> None:
    """Adds the effective receptive field against time."""
    if not subject.spectral_blocks or subject.run.anatomy.steps < 2:
        return
    fields, radii = reach(subject)
    half, most = (radius[::-1] for radius in radii.values())
    weight = (fields[::-1] ** 2).sum((-2, -1))
    page.section("How far a place sees, step by step")
    page.paragraph(
        "From where in the image the middle of the last map is reached: root of the summed squared "
        "gradients of all its channels with respect to each pixel, for frames so many steps back, "
        "each on its own logarithmic scale over a factor of 100. Half of the squares lie within "
        f"{half[0]:.0f} pixels in the last frame and within {half[-1]:.0f} in the first, "
        f"{len(half) - 1} steps back; 90 % within {most[0]:.0f} and {most[-1]:.0f}. The frame "
        f"{len(half) - 1} back has {weight[-1] / weight[0]:,.3g} times the last frame's squares. A "
        "faint uniform ground comes through the gates, which see the mean of the whole image."
    )
    page.figure(receptive_fields(fields, radii), "receptive_field", "Receptive field against time")


def state_movie(subject: Subject, block: str) -> bytes:
    """Returns a GIF of the states of one image of each kind, after each step."""
    numbers = subject.examples(1)

    def energy(params: PyTree, x: Array) -> Array:
        states = state_histories(subject.model, {"params": params}, x)[block]
        states = states - states.mean((-4, -3), keepdims=True)
        return jnp.sqrt((states**2).mean(-2)).transpose(1, 4, 0, 2, 3)

    strengths = np.asarray(jax.jit(energy)(subject.params, subject.frames(numbers)))
    captions = [CLASSES[subject.labels[i]] for i in numbers]
    names = state_names(subject.model)[block]
    return states_gif(subject.images[numbers], strengths, captions, names)


def add_movie(page: Page, subject: Subject) -> None:
    """Adds the states over time as a moving picture."""
    for block in subject.spectral_blocks:
        page.section(f"The states of {block} in motion")
        page.paragraph(
            "The strength of each state itself (root mean square over channels of what differs "
            "from the map's mean), before the gate of the read-out, one picture a step, each on "
            "its own scale; the last one is held."
        )
        page.animation(state_movie(subject, block), f"states-{block}-film", f"States of {block}")
