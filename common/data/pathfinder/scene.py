"""Makes Pathfinder scenes and images from a seed and an index alone."""

import math
from typing import NamedTuple

import numba
import numpy as np

from common.data.pathfinder import contours, render
from common.data.pathfinder.settings import PathfinderSettings

jit = numba.njit(cache=True, nogil=True)


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


@jit
def _draw_scene(seed, index, matched, lengths, counts, paddles, markers):
    """Fills `paddles` and `markers`; returns the number of paddles. Even indices are positive."""
    window, padding, seed_distance, paddle_length, margin, clearance, continuity = lengths
    length, distractors, distractor_length = counts
    shape = (paddle_length, margin, continuity)
    low, high = padding, window - padding
    positive = index % 2 == 0
    if positive or not matched:
        stream = contours.make_stream(seed, index)
        contours.draw_targets(stream, paddles, length, seed_distance, shape, clearance, low, high)
    else:
        partner = contours.make_stream(seed, index - 1)
        contours.draw_targets(partner, paddles, length, seed_distance, shape, clearance, low, high)
        tail, head = paddles[0], paddles[length - 1]
        distance = math.hypot(head[2] - tail[0], head[3] - tail[1])
        stream = contours.make_stream(seed, index)
        contours.draw_targets_at_distance(
            stream, paddles, length, distance, seed_distance, shape, clearance, low, high
        )
    head = paddles[length - 1] if positive else paddles[2 * length - 1]
    markers[0, 0], markers[0, 1] = paddles[0, 0], paddles[0, 1]
    markers[1, 0], markers[1, 1] = head[2], head[3]
    return contours.draw_distractors(
        stream, paddles, 2 * length, distractors, distractor_length, shape, clearance, low, high
    )


@jit
def _render(paddles, count, markers, scale, thickness, radius, canvas, image):
    canvas[:] = 0.0
    for i in range(count):
        y0, x0, y1, x1 = paddles[i]
        render.draw_paddle(canvas, y0 * scale, x0 * scale, y1 * scale, x1 * scale, thickness)
    for i in range(2):
        render.draw_disc(canvas, markers[i, 0] * scale, markers[i, 1] * scale, radius)
    height, width = canvas.shape
    for i in range(height):
        for j in range(width):
            image[i, j] = np.uint8(255.0 * canvas[i, j] + 0.5)


@jit
def _draw_images(seed, start, matched, lengths, counts, drawing, images, distances):
    scale, thickness, radius = drawing
    length, distractors, distractor_length = counts
    paddles = np.empty((2 * length + distractors * distractor_length, 4))
    markers = np.empty((2, 2))
    canvas = np.empty(images.shape[1:], np.float32)
    for i in range(images.shape[0]):
        count = _draw_scene(seed, start + i, matched, lengths, counts, paddles, markers)
        _render(paddles, count, markers, scale, thickness, radius, canvas, images[i])
        distances[i] = math.hypot(markers[0, 0] - markers[1, 0], markers[0, 1] - markers[1, 1])


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
    count = _draw_scene(seed, index, matched, _lengths(settings), counts, paddles, markers)
    return Scene(paddles[:count], markers, 1 - index % 2)


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
    _draw_images(
        seed, start, matched, _lengths(settings), _counts(settings), drawing, images, distances
    )
    labels = (1 - np.arange(start, start + count) % 2).astype(np.uint8)
    return images, labels, distances
