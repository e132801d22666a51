"""Tables of the reference layout: what a paddle can look like, and where the next one can go.

In the public generator all points are whole pixels, so a contour has few ways to go on: its first
paddle has one of 360 whole-degree headings, and every other one ends on one of the pixels of a
circle around the pivot. Each way has one picture, one footprint for collisions and one table of
weights of its continuations, made here once. Numbers are rounded so that no libm and no machine
makes a difference.

Lengths are in pixels, points (y, x) with y down, angles from +x towards +y.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

DEGREES = 360
SUPERSAMPLED = 41  # pixels of the double-size canvas of one paddle, drawn from its middle
CANVAS = 21
LANCZOS_LOBES = 3


class Geometry(NamedTuple):
    """Ways of a contour: number k < 360 starts with heading k degrees, the others go on.

    Attributes:
        pivots: (k, 2) int64, from a paddle's pivot to the next pivot.
        first_pivots: (360, 2) int64, from a first paddle's tail to its own pivot.
        heads: (m, 2) int64, from a pivot to the pixel that paddle 360 + m ends on.
        first_heads: (360, 2) int64, from a first paddle's tail to its head.
        weights: (k, m) float64, of continuation m after way k.
        footprints: (k, 21, 21) uint8, what collides, around the pixel the paddle is drawn from.
        halos: (k, 27, 27) uint8, footprints widened by the margin.
        lines: (k, 2) float64, from the pixel the paddle is drawn from to its other end.
    """

    pivots: np.ndarray
    first_pivots: np.ndarray
    heads: np.ndarray
    first_heads: np.ndarray
    weights: np.ndarray
    footprints: np.ndarray
    halos: np.ndarray
    lines: np.ndarray


class Stamps(NamedTuple):
    """The geometry with the pictures: `bars` (k, 21, 21) and `disc` (21, 21), uint8."""

    geometry: Geometry
    bars: np.ndarray
    disc: np.ndarray


@functools.cache
def make_stamps(length: int, thickness: int, margin: int, radius: int, continuity: float) -> Stamps:
    """Makes the tables for paddles of a length and thickness, joined at a margin.

    Args:
        length: of a paddle.
        thickness: of a paddle.
        margin: half the gap between consecutive paddles.
        radius: of the markers.
        continuity: a turn has weight cos^2(continuity * turn) up to 90 degrees / continuity.
    """
    degrees = np.arange(DEGREES) * (math.pi / 180.0)
    heads = _circle(length + margin)
    headings = np.concatenate([degrees, np.arctan2(heads[:, 0], heads[:, 1])])
    # Unlike the others, the first paddle's head is rounded up; its pivot is counted from there.
    first_heads = _up(length * _directions(degrees))
    turns = np.abs(headings[:, None] - headings[None, DEGREES:]) % (2.0 * math.pi)
    turns = np.minimum(turns, 2.0 * math.pi - turns)
    weights = np.cos(np.minimum(continuity * turns, 0.5 * math.pi)) ** 2
    # A first paddle is drawn from its tail, any other one from its head back to its pivot.
    lines = length * _directions(np.concatenate([degrees, headings[DEGREES:] + math.pi]))
    shapes = [_double_size_bar(line, thickness) for line in lines]
    footprints = np.stack([_resize(_widen(shape, 2 * margin), CANVAS) for shape in shapes])
    geometry = Geometry(
        pivots=_up((length + 2 * margin) * _directions(headings)),
        first_pivots=_up(first_heads - (length + margin) * _directions(degrees)),
        heads=heads,
        first_heads=first_heads,
        weights=np.round(weights * 2.0**30) / 2.0**30,
        footprints=footprints,
        halos=np.stack([_widen(np.pad(one, margin), margin) for one in footprints]),
        lines=lines,
    )
    bars = np.stack([_resize(shape, CANVAS) for shape in shapes])
    return Stamps(geometry, bars, _disc(radius))


def _directions(angles: np.ndarray) -> np.ndarray:
    return np.round(np.stack([np.sin(angles), np.cos(angles)], -1) * 2.0**40) / 2.0**40


def _up(points: np.ndarray) -> np.ndarray:
    return np.ceil(points - 1e-9).astype(np.int64)


def _circle(radius: int) -> np.ndarray:
    """Returns the distinct pixels (m, 2) of a circle, sampled once per pixel of its length."""
    angles = np.arange(math.ceil(2.0 * math.pi * radius)) / radius
    points = np.floor(radius * _directions(angles) + 1e-9).astype(np.int64)
    _, first = np.unique(points, axis=0, return_index=True)
    return points[np.sort(first)]


def _double_size_bar(line: np.ndarray, thickness: int) -> np.ndarray:
    """Draws a hard bar from the canvas' middle, 2 * thickness wide, with whole-pixel corners."""
    end = _up(2.0 * line)
    across = np.array([end[1], -end[0]]) / math.hypot(*end)
    one = np.floor(thickness * across + 0.5)
    other = -np.floor((thickness - 1) * across + 0.5)
    canvas = np.zeros((SUPERSAMPLED, SUPERSAMPLED), np.int64)
    _fill_polygon(canvas, np.stack([other, end + other, end + one, one]) + SUPERSAMPLED // 2)
    return canvas


def _fill_polygon(canvas: np.ndarray, corners: np.ndarray) -> None:
    """Fills a convex polygon row by row; a pixel counts up to half a pixel beyond an edge."""
    for y in range(int(corners[:, 0].min()), int(corners[:, 0].max()) + 1):
        crossings = []
        for (y0, x0), (y1, x1) in zip(corners, np.roll(corners, -1, 0), strict=True):
            if min(y0, y1) <= y <= max(y0, y1):
                crossings += [x0, x1] if y0 == y1 else [x0 + (y - y0) * (x1 - x0) / (y1 - y0)]
        left, right = math.ceil(min(crossings) - 0.499), math.floor(max(crossings) + 0.499)
        canvas[y, left : right + 1] = 255


def _disc(radius: int) -> np.ndarray:
    """Draws a disc at double size, its middle on a whole pixel there, and halves it exactly."""
    rows = np.arange(2 * CANVAS + 2) - (CANVAS + 1)
    disc = np.where(rows[:, None] ** 2 + rows[None, :] ** 2 <= 4 * radius**2, 255, 0)
    return _resize(disc, CANVAS + 1)[1:, 1:]


def _widen(image: np.ndarray, radius: int) -> np.ndarray:
    """Returns the greatest value within a radius of each pixel."""
    height, width = image.shape
    padded = np.pad(image, radius)
    result = np.zeros_like(image)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if dy * dy + dx * dx <= radius * radius:
                part = padded[radius + dy : radius + dy + height, radius + dx : radius + dx + width]
                result = np.maximum(result, part)
    return result


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes a square image as Lanczos filters on bytes do."""
    matrix = _lanczos(image.shape[0], size)
    across = np.clip(np.floor(image @ matrix.T + 0.5), 0, 255)
    return np.clip(np.floor(matrix @ across + 0.5), 0, 255).astype(np.uint8)


def _lanczos(size: int, wanted: int) -> np.ndarray:
    """Returns the resampling weights (wanted, size), rounded to 2^-22."""
    scale = size / wanted
    centres = (np.arange(wanted) + 0.5) * scale
    distance = (np.arange(size)[None, :] + 0.5 - centres[:, None]) / scale
    weights = np.where(
        np.abs(distance) < LANCZOS_LOBES, np.sinc(distance) * np.sinc(distance / LANCZOS_LOBES), 0
    )
    weights = weights / weights.sum(1, keepdims=True)
    return np.round(weights * 2.0**22) / 2.0**22
