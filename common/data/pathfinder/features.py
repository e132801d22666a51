"""Features of a Pathfinder image that no contour has to be followed for: candidate shortcuts."""

import numpy as np
from scipy import ndimage

LIT = 127
RADII = (2.5, 5.0, 10.0)  # of the neighbourhoods of a marker, in marker radii
EIGHT_NEIGHBOURS = np.ones((3, 3), int)


def find_markers(images: np.ndarray, radius: float) -> np.ndarray:
    """Finds the two discs in images that come without a record of them.

    A disc is where most light lies within its radius; the second one is looked for where the first
    one no longer counts.

    Args:
        images: (n, s, s) uint8.
        radius: radius of the discs, pixels.

    Returns:
        (n, 2, 2) float32 centres (y, x) in pixels, the upper one first.
    """
    template = _disc(radius)
    found = np.empty((len(images), 2, 2), np.float32)
    for i, image in enumerate(images):
        light = ndimage.convolve(image.astype(np.float32), template, mode="constant")
        for k in range(2):
            y, x = np.unravel_index(light.argmax(), light.shape)
            found[i, k] = _centre_of_light(image, int(y), int(x), radius)
            blind = int(np.ceil(2 * radius))
            light[max(0, y - blind) : y + blind + 1, max(0, x - blind) : x + blind + 1] = -1
        if found[i, 0, 0] > found[i, 1, 0]:
            found[i] = found[i, ::-1].copy()
    return found


def shortcut_features(
    images: np.ndarray, markers: np.ndarray, radius: float
) -> dict[str, np.ndarray]:
    """Measures what might tell the label without following a contour.

    Args:
        images: (n, s, s) uint8.
        markers: (n, 2, 2) centres (y, x) of the discs, pixels.
        radius: radius of the discs, pixels.

    Returns:
        (n, d) float64 features by name: the distance between the markers and its powers to the
        cube, the lit fraction, the markers' positions, the light near them, and the number of
        connected components.
    """
    size = images.shape[-1]
    positions = np.asarray(markers, np.float64) / size - 0.5
    distance = np.linalg.norm(positions[:, 0] - positions[:, 1], axis=-1)
    distance = (distance - distance.mean()) / (distance.std() or 1.0)
    lit = images > LIT
    features = {
        "marker distance": distance[:, None] ** np.arange(1, 4),
        "lit fraction": np.stack([lit.mean((1, 2)), images.mean((1, 2)) / 255.0], -1),
        "marker positions": _position_features(positions),
        "light near the markers": _light_near(images, markers, radius),
        "components": np.array(
            [[ndimage.label(one, EIGHT_NEIGHBOURS)[1]] for one in lit], np.float64
        ),
    }
    return features | {"all of these": np.concatenate(list(features.values()), 1)}


def _position_features(positions: np.ndarray) -> np.ndarray:
    """Returns coordinates, distances from the centre and their squares (n, 12)."""
    radii = np.linalg.norm(positions, axis=-1)
    boxes = np.abs(positions).max(-1)
    flat = positions.reshape(len(positions), 4)
    return np.concatenate([flat, flat**2, radii, boxes], -1)


def _light_near(images: np.ndarray, markers: np.ndarray, radius: float) -> np.ndarray:
    """Returns the light within some distances of each marker (n, 2 * len(RADII)), in pixels."""
    rows = np.arange(images.shape[-1])
    light = np.empty((len(images), 2, len(RADII)))
    for i, image in enumerate(images):
        for k, (y, x) in enumerate(markers[i]):
            squared = (rows[:, None] + 0.5 - y) ** 2 + (rows[None, :] + 0.5 - x) ** 2
            for r, reach in enumerate(RADII):
                light[i, k, r] = image[squared < (reach * radius) ** 2].sum() / 255.0
    return light.reshape(len(images), -1)


def _disc(radius: float) -> np.ndarray:
    reach = int(np.ceil(radius))
    rows = np.arange(-reach, reach + 1)
    distance = np.hypot(rows[:, None], rows[None, :])
    return np.clip(radius + 0.5 - distance, 0.0, 1.0).astype(np.float32)


def _centre_of_light(image: np.ndarray, y: int, x: int, radius: float) -> tuple[float, float]:
    """Returns the centre of light within a disc around pixel (y, x), in pixel units."""
    template = _disc(radius)
    reach = template.shape[0] // 2
    padded = np.pad(image, reach).astype(np.float64)
    patch = padded[y : y + 2 * reach + 1, x : x + 2 * reach + 1] * (template > 0)
    offsets = np.arange(-reach, reach + 1)
    total = patch.sum() or 1.0
    return (
        y + 0.5 + float((patch.sum(1) * offsets).sum() / total),
        x + 0.5 + float((patch.sum(0) * offsets).sum() / total),
    )
