"""The compiled part of the Pathfinder generator: contours, rendering, scenes.

A contour is a chain of paddles that turns smoothly and keeps clear of the others. A paddle is a
row (y0, x0, y1, x1); a contour is consecutive rows. Pixel (i, j) is the unit square around
(i + 0.5, j + 0.5). The random stream of an image is a one-element uint64 array that the functions
advance (SplitMix64, Steele et al. 2014), so that an image depends on its seed and index alone.

All of it stands in one file because Numba's cache of compiled code notices changes of the file
that a function stands in, but not of the files that it calls.
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


@jit
def _overlap(centre, half):
    """Length of [centre - 0.5, centre + 0.5] inside [-half, half]."""
    return max(0.0, min(half, centre + 0.5) - max(-half, centre - 0.5))


@jit
def draw_paddle(image, y0, x0, y1, x1, thickness):
    """Draws a flat-ended bar (pixels) into a float image (h, w) by pixelwise maximum."""
    length = math.hypot(y1 - y0, x1 - x0)
    uy, ux = (y1 - y0) / length, (x1 - x0) / length
    cy, cx = 0.5 * (y0 + y1), 0.5 * (x0 + x1)
    reach = 0.5 * (length + thickness) + 1.0
    height, width = image.shape
    for i in range(max(0, int(cy - reach)), min(height, int(cy + reach) + 1)):
        for j in range(max(0, int(cx - reach)), min(width, int(cx + reach) + 1)):
            dy, dx = i + 0.5 - cy, j + 0.5 - cx
            along, across = dy * uy + dx * ux, dx * uy - dy * ux
            value = _overlap(along, 0.5 * length) * _overlap(across, 0.5 * thickness)
            image[i, j] = max(image[i, j], value)


@jit
def draw_disc(image, y, x, radius):
    """Draws a disc (pixels) into a float image (h, w) by pixelwise maximum."""
    reach = radius + 1.0
    height, width = image.shape
    for i in range(max(0, int(y - reach)), min(height, int(y + reach) + 1)):
        for j in range(max(0, int(x - reach)), min(width, int(x + reach) + 1)):
            inside = radius + 0.5 - math.hypot(i + 0.5 - y, j + 0.5 - x)
            image[i, j] = max(image[i, j], min(1.0, max(0.0, inside)))


@jit
def fill_scene(seed, index, matched, lengths, counts, paddles, markers):
    """Fills `paddles` and `markers`; returns the number of paddles. Even indices are positive."""
    window, padding, seed_distance, paddle_length, margin, clearance, continuity = lengths
    length, distractors, distractor_length = counts
    shape = (paddle_length, margin, continuity)
    low, high = padding, window - padding
    positive = index % 2 == 0
    if positive or not matched:
        stream = make_stream(seed, index)
        draw_targets(stream, paddles, length, seed_distance, shape, clearance, low, high)
    else:
        partner = make_stream(seed, index - 1)
        draw_targets(partner, paddles, length, seed_distance, shape, clearance, low, high)
        tail, head = paddles[0], paddles[length - 1]
        distance = math.hypot(head[2] - tail[0], head[3] - tail[1])
        stream = make_stream(seed, index)
        draw_targets_at_distance(
            stream, paddles, length, distance, seed_distance, shape, clearance, low, high
        )
    head = paddles[length - 1] if positive else paddles[2 * length - 1]
    markers[0, 0], markers[0, 1] = paddles[0, 0], paddles[0, 1]
    markers[1, 0], markers[1, 1] = head[2], head[3]
    return draw_distractors(
        stream, paddles, 2 * length, distractors, distractor_length, shape, clearance, low, high
    )


@jit
def _draw(paddles, count, markers, scale, thickness, radius, canvas, image):
    canvas[:] = 0.0
    for i in range(count):
        y0, x0, y1, x1 = paddles[i]
        draw_paddle(canvas, y0 * scale, x0 * scale, y1 * scale, x1 * scale, thickness)
    for i in range(2):
        draw_disc(canvas, markers[i, 0] * scale, markers[i, 1] * scale, radius)
    height, width = canvas.shape
    for i in range(height):
        for j in range(width):
            image[i, j] = np.uint8(255.0 * canvas[i, j] + 0.5)


@jit
def fill_images(seed, start, matched, lengths, counts, drawing, images, distances):
    """Fills `images` (n, s, s) and their marker `distances` (n,), from image `start` on."""
    scale, thickness, radius = drawing
    length, distractors, distractor_length = counts
    paddles = np.empty((2 * length + distractors * distractor_length, 4))
    markers = np.empty((2, 2))
    canvas = np.empty(images.shape[1:], np.float32)
    for i in range(images.shape[0]):
        count = fill_scene(seed, start + i, matched, lengths, counts, paddles, markers)
        _draw(paddles, count, markers, scale, thickness, radius, canvas, images[i])
        distances[i] = math.hypot(markers[0, 0] - markers[1, 0], markers[0, 1] - markers[1, 1])


@jit
def fill_headings(seed, start, matched, lengths, counts, headings):
    """Fills `headings` (n, 2), the cosines that `marker_headings` describes."""
    length, distractors, distractor_length = counts
    paddles = np.empty((2 * length + distractors * distractor_length, 4))
    markers = np.empty((2, 2))
    for i in range(headings.shape[0]):
        fill_scene(seed, start + i, matched, lengths, counts, paddles, markers)
        between = markers[1] - markers[0]
        first = paddles[0, 2:] - paddles[0, :2]
        end = paddles[length - 1] if (start + i) % 2 == 0 else paddles[2 * length - 1]
        last = end[2:] - end[:2]
        scale = lengths[3] * math.hypot(between[0], between[1])
        headings[i, 0] = (first[0] * between[0] + first[1] * between[1]) / scale
        headings[i, 1] = (last[0] * between[0] + last[1] * between[1]) / scale
