"""Makes Pathfinder scenes and images from a seed and an index alone."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.data.pathfinder import matched, reference, rendering, stamps
from common.data.pathfinder.settings import PathfinderSettings
from common.errors import UserError


class Scene(NamedTuple):
    """Geometry of one image, in reference pixels, points as (y, x) with y down.

    Attributes:
        paddles: (n, 4) rows (y0, x0, y1, x1), tail to head: first the contour that the first
            marker stands on, then the other target, then the distractors.
        markers: (2, 2) centres of the two discs; the first one ends a tail.
        label: 1 where the discs end one contour, 0 where they end two.
    """

    paddles: np.ndarray
    markers: np.ndarray
    label: int


class DrawnImages(NamedTuple):
    """Images with what is known of them.

    Attributes:
        images: (n, s, s) uint8, black background.
        labels: (n,) uint8, 1 where the two discs end one contour.
        markers: (n, 2, 2) float32, centres (y, x) of the discs in reference pixels.
        headings: (n, 2) float32, cosines between the direction from a marker to the other one and
            the contour that sets out from it.
    """

    images: np.ndarray
    labels: np.ndarray
    markers: np.ndarray
    headings: np.ndarray


class _Scenes(NamedTuple):
    paddles: np.ndarray
    placed: np.ndarray
    markers: np.ndarray
    stamped: np.ndarray | None


def draw_scene(settings: PathfinderSettings, seed: int, index: int) -> Scene:
    """Returns the geometry of image `index` of `seed`.

    Args:
        settings: the family of images.
        seed: names a split; different seeds give unrelated images.
        index: number of the image. Even numbers are positive, odd ones negative; in the matched
            layout an odd image is the even one before it with the second marker moved to the
            head of the other target.
    """
    scenes = _draw_scenes(settings, seed, index, 1)
    return Scene(scenes.paddles[0, : scenes.placed[0]], scenes.markers[0], 1 - index % 2)


def draw_images(settings: PathfinderSettings, seed: int, start: int, count: int) -> DrawnImages:
    """Draws images `start` ... `start + count - 1` of `seed`; see `draw_scene`."""
    scenes = _draw_scenes(settings, seed, start, count)
    images = _render(settings, scenes)
    labels = (1 - np.arange(start, start + count) % 2).astype(np.uint8)
    headings = _headings(scenes, labels, settings.contour_length)
    return DrawnImages(
        images, labels, scenes.markers.astype(np.float32), headings.astype(np.float32)
    )


def draw_without(
    settings: PathfinderSettings, seed: int, index: int, missing: Sequence[int]
) -> np.ndarray:
    """Draws image `index` of `seed` with some paddles left out, and nothing else changed.

    Args:
        settings: the family of images.
        seed: names a split, see `draw_scene`.
        index: number of the image.
        missing: rows of `Scene.paddles`; 0 to `contour_length` - 1 are those of the contour that
            the first marker stands on.

    Returns:
        The image (s, s) uint8.

    Raises:
        UserError: the scene has no such paddle.
    """
    scenes = _draw_scenes(settings, seed, index, 1)
    placed = int(scenes.placed[0])
    if outside := [row for row in missing if not 0 <= row < placed]:
        raise UserError(f"image {index} has {placed} paddles and none of number {outside[0]}")
    rows = [row for row in range(placed) if row not in missing]
    stamped = scenes.stamped
    if stamped is not None:
        stamped = stamped[:, [*rows, -2, -1]]  # the two discs come last
    kept = scenes._replace(
        paddles=np.ascontiguousarray(scenes.paddles[:, rows]),
        placed=np.array([len(rows)]),
        stamped=None if stamped is None else np.ascontiguousarray(stamped),
    )
    return _render(settings, kept)[0]


def _render(settings: PathfinderSettings, scenes: _Scenes) -> np.ndarray:
    """Draws scenes as images (n, s, s) uint8."""
    size = settings.image_size
    images = np.empty((len(scenes.placed), size, size), np.uint8)
    if scenes.stamped is not None and size == settings.window:
        tables = _stamps(settings)
        reference.fill_images(scenes.stamped, scenes.placed, tables.bars, tables.disc, images)
    else:
        drawing = (size / settings.window, settings.bar_thickness, float(settings.marker_radius))
        rendering.fill_images(scenes.paddles, scenes.placed, scenes.markers, drawing, images)
    return images


def _headings(scenes: _Scenes, labels: np.ndarray, length: int) -> np.ndarray:
    """Returns the cosines that `DrawnImages` describes."""
    last = np.where(labels == 1, length - 1, 2 * length - 1)
    ends = np.stack([scenes.paddles[:, 0], scenes.paddles[np.arange(len(last)), last]], 1)
    along, between = ends[..., 2:] - ends[..., :2], np.diff(scenes.markers, axis=1)
    size = np.linalg.norm(along, axis=-1) * np.linalg.norm(between, axis=-1)
    return np.sum(along * between, -1) / np.maximum(size, 1e-9)


def _draw_scenes(settings: PathfinderSettings, seed: int, start: int, count: int) -> _Scenes:
    length = settings.contour_length
    counts = (length, settings.distractors, settings.distractor_length)
    most = 2 * length + settings.distractors * settings.distractor_length
    paddles, placed = np.zeros((count, most, 4)), np.zeros(count, np.int64)
    markers = np.zeros((count, 2, 2))
    if settings.layout == "reference":
        stamped = np.zeros((count, most + 2, 3), np.int32)
        sizes = (int(settings.window), int(settings.padding), int(settings.seed_distance))
        tables = _stamps(settings).geometry
        reference.fill_scenes(seed, start, sizes, counts, tables, paddles, placed, markers, stamped)
        return _checked(_Scenes(paddles, placed, markers, stamped))
    lengths = (
        float(settings.window),
        float(settings.padding),
        float(settings.seed_distance),
        float(settings.paddle_length),
        float(settings.margin),
        float(settings.clearance),
    )
    tables = _turns(settings.continuity)
    matched.fill_scenes(seed, start, lengths, counts, tables, paddles, placed, markers)
    return _checked(_Scenes(paddles, placed, markers, None))


def _checked(scenes: _Scenes) -> _Scenes:
    if not scenes.placed.all():
        raise UserError(
            "data: two contours of these lengths, distances and turns find no room in the window"
        )
    return scenes


@functools.cache
def _turns(continuity: float) -> tuple[np.ndarray, np.ndarray]:
    return matched.direction_table(), matched.turn_table(continuity)


def _stamps(settings: PathfinderSettings) -> stamps.Stamps:
    return stamps.make_stamps(
        int(settings.paddle_length),
        int(settings.paddle_thickness),
        int(settings.margin),
        int(settings.marker_radius),
        float(settings.continuity),
    )
