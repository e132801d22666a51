"""Makes Pathfinder scenes and images from a seed and an index alone."""

from typing import NamedTuple

import numpy as np

from common.data.pathfinder import compiled
from common.data.pathfinder.settings import PathfinderSettings


class Scene(NamedTuple):
    """Geometry of one image, in reference pixels, points as (y, x) with y down.

    Attributes:
        paddles: (n, 4) rows (y0, x0, y1, x1): first the two targets, then the distractors.
        markers: (2, 2) centres of the two discs.
        label: 1 where the discs end one contour, 0 where they end two.
    """

    paddles: np.ndarray
    markers: np.ndarray
    label: int

    @property
    def marker_distance(self) -> float:
        """Distance between the discs."""
        return float(np.hypot(*(self.markers[0] - self.markers[1])))


def _lengths(settings: PathfinderSettings) -> tuple[float, ...]:
    return (
        float(settings.window),
        float(settings.padding),
        float(settings.seed_distance),
        float(settings.paddle_length),
        float(settings.margin),
        float(settings.clearance),
        float(settings.continuity),
    )


def _counts(settings: PathfinderSettings) -> tuple[int, int, int]:
    assert settings.distractor_length is not None
    return settings.contour_length, settings.distractors, settings.distractor_length


def draw_scene(settings: PathfinderSettings, seed: int, index: int) -> Scene:
    """Returns the geometry of image `index` of `seed`.

    Args:
        settings: the family of images.
        seed: names a split; different seeds give unrelated images.
        index: number of the image. Even numbers are positive, odd ones negative; with matched
            markers an odd image has the marker distance of the even one before it.
    """
    length, distractors, distractor_length = counts = _counts(settings)
    paddles = np.empty((2 * length + distractors * distractor_length, 4))
    markers = np.empty((2, 2))
    matched = settings.marker_distance == "matched"
    count = compiled.fill_scene(seed, index, matched, _lengths(settings), counts, paddles, markers)
    return Scene(paddles[:count], markers, 1 - index % 2)


def marker_headings(settings: PathfinderSettings, seed: int, start: int, count: int) -> np.ndarray:
    """Tells how straight towards the other marker the contours leave the two markers.

    Returns:
        (count, 2) float32 cosines between the paddle under a marker, followed inwards, and the
        direction to the other marker.
    """
    headings = np.empty((count, 2), np.float32)
    matched = settings.marker_distance == "matched"
    compiled.fill_headings(seed, start, matched, _lengths(settings), _counts(settings), headings)
    return headings


def draw_images(
    settings: PathfinderSettings, seed: int, start: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws images `start` ... `start + count - 1` of `seed`.

    Returns:
        images: (count, size, size) uint8, black background.
        labels: (count,) uint8, 1 where the two discs end one contour.
        marker_distances: (count,) float32, reference pixels.
    """
    scale = settings.image_size / settings.window
    drawing = (scale, settings.paddle_thickness * scale, settings.marker_radius * scale)
    images = np.empty((count, settings.image_size, settings.image_size), np.uint8)
    distances = np.empty(count, np.float32)
    matched = settings.marker_distance == "matched"
    compiled.fill_images(
        seed, start, matched, _lengths(settings), _counts(settings), drawing, images, distances
    )
    labels = (1 - np.arange(start, start + count) % 2).astype(np.uint8)
    return images, labels, distances
