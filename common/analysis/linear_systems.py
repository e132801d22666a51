"""Linear recurrences s_t = M_t s_{t-1}: how much of each frequency is kept or amplified."""

import numpy as np

from common.array_types import Complex, Float


def spectral_radius(
    matrices: Complex[np.ndarray, "*b n n"] | Float[np.ndarray, "*b n n"],
) -> Float[np.ndarray, "*b"]:
    """Returns the largest magnitude of an eigenvalue of each matrix.

    Applied again and again, a matrix multiplies what is left of any state by it; above 1 the state
    grows. The matrices of a recurrence change with time, so that no single radius bounds it: see
    `joint_gain`.
    """
    matrices = np.asarray(matrices)
    if matrices.shape[-1] == 1:
        return np.abs(matrices[..., 0, 0])
    return np.abs(np.linalg.eigvals(matrices)).max(-1)


def joint_gain(
    matrices: Complex[np.ndarray, "t *b n n"] | Float[np.ndarray, "t *b n n"],
) -> Float[np.ndarray, "*b"]:
    """Returns by how much all steps together stretch a state at most, as a factor for each step.

    The t-th root of the largest singular value of M_t ... M_1.
    """
    product = np.asarray(matrices[0])
    for matrix in matrices[1:]:
        product = matrix @ product
    return np.linalg.norm(product, 2, axis=(-2, -1)) ** (1 / len(matrices))


def radial_frequencies(height: int, width: int) -> Float[np.ndarray, "h f"]:
    """Returns how far each entry of a half spectrum is from zero frequency, cycles per cell."""
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])


def by_radius(
    values: Float[np.ndarray, "h f *b"], width: int, bins: int = 8
) -> tuple[Float[np.ndarray, "bins"], list[np.ndarray]]:
    """Groups values on a half spectrum by the distance from zero frequency.

    Args:
        values: one for each frequency, with any further axes.
        width: columns of the map that the half spectrum is of.
        bins: rings of equal width, from 0 to the largest distance; empty ones are left out.

    Returns:
        The mean distance in each ring, cycles per cell, and the values in it as a flat array.
    """
    radius = radial_frequencies(len(values), width)
    ring = np.minimum((radius / radius.max() * bins).astype(int), bins - 1)
    filled = [i for i in range(bins) if (ring == i).any()]
    centres = np.array([radius[ring == i].mean() for i in filled])
    return centres, [values[ring == i].ravel() for i in filled]
