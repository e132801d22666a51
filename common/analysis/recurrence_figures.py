"""Figures of a recurrence: its gates and transitions by frequency, its impulses, its reach."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.analysis import style
from common.analysis.linear_systems import by_radius
from common.array_types import Float

STEP_COLOURS = (style.BLUE, style.ORANGE, style.VERMILION)
STEP_STYLES = ("-", "--", ":")


@style.styled
def gate_maps(gates: Mapping[str, Float[np.ndarray, "h f"]]) -> Figure:
    """Draws the value of each gate at every spatial frequency, all on one scale from 0 to 1.

    Zero frequency is in the middle of the left edge, the finest stripes at the right and at the
    top and bottom. The number is the mean.
    """
    columns = min(5, len(gates))
    rows = -(-len(gates) // columns)
    figure = style.new_figure(2.05 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False)
    image = None
    for i, axes in enumerate(grid.flat):
        if i >= len(gates):
            axes.set_axis_off()
            continue
        name = list(gates)[i]
        image = _spectrum_image(axes, gates[name], cmap="viridis", vmin=0, vmax=1)
        axes.set_title(f"{name}\n{gates[name].mean():.2f}", fontsize=8)
        axes.label_outer()
    figure.supxlabel("horizontal frequency (cycles per cell)", fontsize=9)
    figure.supylabel("vertical frequency", fontsize=9)
    assert image is not None
    figure.colorbar(image, ax=grid, label="gate value", fraction=0.03, pad=0.01, aspect=25)
    return figure


def _spectrum_image(axes: Axes, values: np.ndarray, **options):
    """Draws values (h, f) of a half spectrum, with zero frequency halfway up the left edge."""
    axes.grid(False)
    extent = (0.0, 0.5, -0.5, 0.5)
    shifted = np.fft.fftshift(values, axes=0)
    image = axes.imshow(shifted, origin="lower", extent=extent, aspect="auto", **options)
    axes.set_xticks([0, 0.25, 0.5], ["0", ".25", ".5"])
    axes.set_yticks([-0.5, 0, 0.5], ["-.5", "0", ".5"])
    return image


@style.styled
def radius_by_frequency(radius: Float[np.ndarray, "T h f c"], width: int) -> Figure:
    """Draws how much of a state one step keeps, by spatial frequency.

    Args:
        radius: spectral radius of the transition of each step, frequency and channel.
        width: columns of the map.

    On the left, mean and middle 80 % over channels and directions at the first, a middle and the
    last step; on the right the mean over channels and steps at every frequency.
    """
    figure = style.new_figure(3.3)
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    steps = sorted({0, len(radius) // 2, len(radius) - 1})
    for step, colour, line in zip(steps, STEP_COLOURS, STEP_STYLES, strict=False):
        centres, groups = by_radius(radius[step], width)
        mean = [group.mean() for group in groups]
        left.plot(centres, mean, color=colour, linestyle=line, label=f"step {step + 1}")
        low, high = np.transpose([np.quantile(group, (0.1, 0.9)) for group in groups])
        left.fill_between(centres, low, high, color=colour, alpha=0.15, linewidth=0)
    left.axhline(1.0, color=style.GREY, linewidth=1.2, linestyle=":")
    left.set(xlabel="spatial frequency (cycles per cell)", ylabel="spectral radius", ylim=(0, None))
    left.set_title("Factor of one step (above 1: it grows)")
    left.legend()
    image = _spectrum_image(right, radius.mean((0, -1)), cmap=style.ENERGY, vmin=0)
    right.set(xlabel="horizontal frequency", ylabel="vertical frequency", title="Mean over steps")
    figure.colorbar(image, ax=right, fraction=0.05, pad=0.02)
    return figure


@style.styled
def impulse_maps(responses: Float[np.ndarray, "m T h w"], names: Sequence[str]) -> Figure:
    """Draws what an impulse in the middle of a map has become after each step.

    Args:
        responses: m rows of maps; each panel has its own scale, whose largest magnitude is given.
        names: (m,) of the rows.
    """
    rows, steps = responses.shape[:2]
    figure = style.new_figure(rows * (style.WIDTH / (steps + 0.7) + 0.17) + 0.3)
    grid = figure.subplots(rows, steps, squeeze=False)
    for row, axes_row in enumerate(grid):
        for step, axes in enumerate(axes_row):
            values = responses[row, step]
            limit = float(np.abs(values).max()) or 1.0
            style.show_image(axes, values, cmap=style.SIGNED, vmin=-limit, vmax=limit)
            top = f"step {step + 1}\n" if row == 0 else ""
            shown = "0" if not values.any() else f"±{limit:.2g}"
            axes.set_title(f"{top}{shown}", fontsize=8, fontweight="normal", loc="center", pad=2)
        axes_row[0].set_ylabel(names[row], rotation=0, ha="right", va="center")
    return figure


@style.styled
def receptive_fields(
    fields: Float[np.ndarray, "T H W"], radii: Mapping[str, Float[np.ndarray, "T"]]
) -> Figure:
    """Draws from where in the image, so many steps before, the middle of a map is reached.

    Args:
        fields: the field in each frame, the last one (read at the same step) at the end; each on
            its own scale, logarithmic over a factor of 100.
        radii: by name, the radius in each frame, pixels.
    """
    steps = len(fields)
    figure = style.new_figure(style.WIDTH / steps + 2.9)
    parts: Any = figure.subfigures(2, 1, height_ratios=(style.WIDTH / steps + 0.45, 2.4))
    top, bottom = parts
    for lag, axes in enumerate(top.subplots(1, steps, squeeze=False)[0]):
        field = fields[steps - 1 - lag]
        shown = np.log10(np.maximum(field / (field.max() or 1.0), 1e-2))
        style.show_image(axes, shown, cmap=style.ENERGY, vmin=-2, vmax=0)
        axes.set_title(f"{lag} back", fontsize=8, fontweight="normal", loc="center", pad=2)
    axes = bottom.subplots()
    lags = np.arange(steps)
    for (name, radius), colour, line in zip(radii.items(), STEP_COLOURS, STEP_STYLES, strict=False):
        axes.plot(lags, radius[::-1], color=colour, linestyle=line, marker="o", label=name)
    axes.set(xlabel="steps back from the state that is read", ylabel="radius (pixels)")
    axes.set_ylim(0, None)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.legend()
    return figure
