"""Contours of Pathfinder: chains of paddles that turn smoothly and keep clear of each other.

Compiled with Numba. A paddle is a row (y0, x0, y1, x1); a contour is consecutive rows. The random
stream of an image is a one-element uint64 array that the functions advance (SplitMix64, Steele et
al. 2014), so that an image depends on its seed and index alone.
"""

import math

import numba
import numpy as np

jit = numba.njit(cache=True, nogil=True)

DRAWS_PER_PADDLE = 3
TRIES_PER_DISTRACTOR = 20


@jit
def _mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@jit
def make_stream(seed, index):
    """Returns the random stream (1,) of image `index` of `seed`."""
    start = _mix(np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1))
    start = _mix(start ^ (np.uint64(index) * np.uint64(0xD1B54A32D192ED03) + np.uint64(1)))
    return np.full(1, start, np.uint64)


@jit
def uniform(stream):
    """Returns the stream's next number in [0, 1)."""
    stream[0] += np.uint64(0x9E3779B97F4A7C15)
    return (_mix(stream[0]) >> np.uint64(11)) * (1.0 / (1 << 53))


@jit
def draw_turn(stream, continuity):
    """Returns a turn in radians with density cos^2(continuity * turn)."""
    limit = 0.5 * math.pi / continuity
    while True:
        turn = limit * (2.0 * uniform(stream) - 1.0)
        if uniform(stream) < math.cos(continuity * turn) ** 2:
            return turn


@jit
def _point_segment(py, px, segment):
    y0, x0, y1, x1 = segment
    dy, dx = y1 - y0, x1 - x0
    along = ((py - y0) * dy + (px - x0) * dx) / (dy * dy + dx * dx)
    along = min(1.0, max(0.0, along))
    return math.hypot(py - y0 - along * dy, px - x0 - along * dx)


@jit
def _side(a, py, px):
    return (a[3] - a[1]) * (py - a[0]) - (a[2] - a[0]) * (px - a[1])


@jit
def segment_distance(a, b):
    """Returns the distance between two segments (y0, x0, y1, x1); 0 where they cross."""
    if _side(a, b[0], b[1]) * _side(a, b[2], b[3]) < 0 and (
        _side(b, a[0], a[1]) * _side(b, a[2], a[3]) < 0
    ):
        return 0.0
    return min(
        min(_point_segment(b[0], b[1], a), _point_segment(b[2], b[3], a)),
        min(_point_segment(a[0], a[1], b), _point_segment(a[2], a[3], b)),
    )


@jit
def _is_free(paddle, paddles, count, reach, clearance, low, high):
    """Tells whether a paddle lies in the window and clear of the first `count` paddles."""
    if min(paddle) < low or max(paddle) > high:
        return False
    middle_y, middle_x = 0.5 * (paddle[0] + paddle[2]), 0.5 * (paddle[1] + paddle[3])
    for i in range(count):
        other = paddles[i]
        near_y = abs(0.5 * (other[0] + other[2]) - middle_y) < reach + clearance
        if near_y and abs(0.5 * (other[1] + other[3]) - middle_x) < reach + clearance:
            if segment_distance(paddle, (other[0], other[1], other[2], other[3])) < clearance:
                return False
    return True


@jit
def grow(stream, paddles, count, length, y, x, heading, shape, clearance, low, high):
    """Appends a contour of `length` paddles to the first `count` rows of `paddles`.

    Args:
        stream: the random stream.
        paddles: (n, 4) rows; those from `count` on are overwritten.
        count: rows that hold earlier paddles.
        length: paddles of the contour.
        y: row of its tail.
        x: column of its tail.
        heading: direction of its first paddle, radians.
        shape: (paddle length, margin, continuity).
        clearance: least distance to paddles other than the predecessor.
        low: least coordinate allowed.
        high: greatest coordinate allowed.

    Returns:
        Whether the contour found room.
    """
    paddle_length, margin, continuity = shape
    for i in range(length):
        placed = False
        for _ in range(DRAWS_PER_PADDLE):
            turned = heading + (draw_turn(stream, continuity) if i > 0 else 0.0)
            dy, dx = math.sin(turned), math.cos(turned)
            gap = margin if i > 0 else 0.0
            y0, x0 = y + gap * dy, x + gap * dx
            paddle = (y0, x0, y0 + paddle_length * dy, x0 + paddle_length * dx)
            earlier = count + i - (1 if i > 0 else 0)
            if _is_free(paddle, paddles, earlier, paddle_length, clearance, low, high):
                placed = True
                break
        if not placed:
            return False
        paddles[count + i] = paddle
        heading = turned
        y, x = paddle[2] + margin * dy, paddle[3] + margin * dx
    return True


@jit
def draw_targets(stream, paddles, length, seed_distance, shape, clearance, low, high):
    """Writes two targets, their tails `seed_distance` apart, into the first 2 * length rows."""
    while True:
        y = low + (high - low) * uniform(stream)
        x = low + (high - low) * uniform(stream)
        heading = 2.0 * math.pi * uniform(stream)
        if not grow(stream, paddles, 0, length, y, x, heading, shape, clearance, low, high):
            continue
        towards = 2.0 * math.pi * uniform(stream)
        y += seed_distance * math.sin(towards)
        x += seed_distance * math.cos(towards)
        heading = 2.0 * math.pi * uniform(stream)
        if grow(stream, paddles, length, length, y, x, heading, shape, clearance, low, high):
            return


@jit
def draw_targets_at_distance(
    stream, paddles, length, distance, seed_distance, shape, clearance, low, high
):
    """Writes two targets; the first's tail and the second's head lie `distance` apart.

    The second contour is grown in free space and turned round the first one's tail: with v its
    vector from tail to head and e the direction between the tails, |seed_distance e + v| =
    distance has two solutions e, of which one is drawn.
    """
    infinity = 1e9
    while True:
        y = low + (high - low) * uniform(stream)
        x = low + (high - low) * uniform(stream)
        heading = 2.0 * math.pi * uniform(stream)
        if not grow(stream, paddles, 0, length, y, x, heading, shape, clearance, low, high):
            continue
        second = paddles[length : 2 * length]
        heading = 2.0 * math.pi * uniform(stream)
        if not grow(
            stream, second, 0, length, 0.0, 0.0, heading, shape, clearance, -infinity, infinity
        ):
            continue
        reach = math.hypot(second[-1, 2], second[-1, 3])
        cosine = (distance**2 - seed_distance**2 - reach**2) / (2.0 * seed_distance * reach)
        if abs(cosine) > 1.0:
            continue
        sign = 1.0 if uniform(stream) < 0.5 else -1.0
        towards = math.atan2(second[-1, 2], second[-1, 3]) + sign * math.acos(cosine)
        y += seed_distance * math.sin(towards)
        x += seed_distance * math.cos(towards)
        second[:, 0::2] += y
        second[:, 1::2] += x
        free = True
        for row in second:
            paddle = (row[0], row[1], row[2], row[3])
            free = free and _is_free(paddle, paddles, length, shape[0], clearance, low, high)
        if free:
            return


@jit
def draw_distractors(stream, paddles, count, number, length, shape, clearance, low, high):
    """Appends up to `number` contours of `length` paddles; returns the new count of paddles."""
    for _ in range(number):
        for _ in range(TRIES_PER_DISTRACTOR):
            y = low + (high - low) * uniform(stream)
            x = low + (high - low) * uniform(stream)
            heading = 2.0 * math.pi * uniform(stream)
            if grow(stream, paddles, count, length, y, x, heading, shape, clearance, low, high):
                count += length
                break
    return count
