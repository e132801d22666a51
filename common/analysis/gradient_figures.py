"""Figures of gradients with respect to parameters."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from common.analysis import style
from common.array_types import Float


@style.styled
def mechanisms(
    magnitudes: Mapping[str, Float[np.ndarray, "b"]], labels: np.ndarray, names: tuple[str, str]
) -> Figure:
    """Draws how much the answer would change with each mechanism, for the two kinds of image.

    Args:
        magnitudes: by mechanism the mean |gradient| of its parameters for each image.
        labels: (b,) 0 or 1.
        names: what label 0 and label 1 mean.

    Bars are means over images with a 95 % interval of the mean.
    """
    figure = style.new_figure(0.42 * len(magnitudes) + 1.0)
    axes = figure.subplots()
    rows = np.arange(len(magnitudes))
    for label in (1, 0):
        values = np.stack([magnitude[labels == label] for magnitude in magnitudes.values()])
        count = values.shape[1]
        error = 1.96 * values.std(1, ddof=1) / np.sqrt(count) if count > 1 else None
        axes.barh(
            rows + 0.2 - 0.4 * label, values.mean(1), 0.38, xerr=error,
            color=style.CLASS_COLOURS[label], hatch="" if label else "////", edgecolor="white",
            linewidth=0, error_kw={"linewidth": 1, "ecolor": style.BLACK}, label=names[label],
        )  # fmt: skip
    axes.set_yticks(rows, list(magnitudes))
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="mean |d logit / d parameter|")
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@style.styled
def kernel_gradients(
    gradients: tuple[Float[np.ndarray, "k l"], Float[np.ndarray, "k l"]], names: tuple[str, str]
) -> Figure:
    """Draws how a kernel would have to change for each answer, and the difference of the two.

    Args:
        gradients: for label 0 and label 1; mean over channels and images, as a rule.
        names: what label 0 and label 1 mean.
    """
    negative, positive = gradients
    figure = style.new_figure(2.7)
    panels = figure.subplots(1, 3)
    shown = {
        f"for '{names[1]}'": positive,
        f"for '{names[0]}'": negative,
        "difference": positive - negative,
    }
    for axes, (title, values) in zip(panels, shown.items(), strict=True):
        limit = float(np.abs(values).max()) or 1.0
        image = style.show_image(axes, values, cmap=style.SIGNED, vmin=-limit, vmax=limit)
        axes.set_title(title)
        figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02, format="%.2g")
    return figure
