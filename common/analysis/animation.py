"""Moving pictures: states of a recurrence over time, as a GIF."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.animation import PillowWriter
from matplotlib.figure import Figure

from common.analysis import style
from common.array_types import Float

DPI = 80


def states_gif(
    images: Float[np.ndarray, "m H W"],
    energy: Float[np.ndarray, "m n T h w"],
    captions: Sequence[str],
    names: Sequence[str],
    frames_per_second: int = 2,
) -> bytes:
    """Draws where in space each state is strong, one frame a step, the last one held longer.

    Every picture has a scale of its own, from its least to its largest value: states may grow or
    fade by orders of magnitude, which would leave all but some steps black.

    Args:
        images: the images shown to the model, one row each.
        energy: non-negative strength of state n.
        captions: text above each image.
        names: (n,) of the states.
        frames_per_second: speed.

    Returns:
        A GIF that repeats for ever.
    """
    with matplotlib.rc_context(style.SETTINGS), tempfile.TemporaryDirectory() as folder:
        figure, panels = _first_frame(images, energy, captions, names)
        path = Path(folder) / "states.gif"
        writer = PillowWriter(fps=frames_per_second)
        steps = energy.shape[2]
        with writer.saving(figure, str(path), DPI):
            for step in [*range(steps), steps - 1, steps - 1]:
                figure.suptitle(f"step {step + 1} of {steps}")
                for example, row in enumerate(panels):
                    for state, image in enumerate(row):
                        image.set_data(energy[example, state, step])
                        image.autoscale()
                writer.grab_frame()
        return path.read_bytes()


def _first_frame(
    images: np.ndarray, energy: np.ndarray, captions: Sequence[str], names: Sequence[str]
) -> tuple[Figure, list[list]]:
    """Returns the figure and its images of states, (m, n), which the frames change."""
    count, states = energy.shape[:2]
    side = style.WIDTH / (states + 1)
    figure = style.new_figure(count * (side + 0.2) + 0.4)
    grid = figure.subplots(count, states + 1, squeeze=False)
    panels = []
    for example, axes_row in enumerate(grid):
        style.show_image(axes_row[0], images[example], cmap=style.INK)
        axes_row[0].set_title(captions[example], fontsize=9, fontweight="normal")
        row = []
        for state, axes in enumerate(axes_row[1:]):
            row.append(style.show_image(axes, energy[example, state, 0], cmap=style.ENERGY))
            axes.set_title(names[state] if example == 0 else "")
        panels.append(row)
    return figure, panels
