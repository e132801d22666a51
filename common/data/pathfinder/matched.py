"""The matched layout: pairs of images that differ only in where the second marker stands.

A contour is a chain of paddles that turns smoothly and keeps clear of the others; a paddle is a row
(y0, x0, y1, x1), tail to head. One contour is grown from the marked tail. The other one ends at the
mirror image of its head, in the mirrored direction, the mirror standing at the marked tail along
the first paddle; it is grown backwards from there to a tail that lies `seed_distance` (within a
tenth) from the marked one. The second marker stands on the own head in the positive image of a pair
and on the mirrored one in the negative. So nothing but the second marker's place tells the two
images apart, and both places are equally far from the first marker, equally far to the side of the
way the contour sets out, and reached in equal directions. At last distractors are redrawn until
about as many paddles lie around the one head as around the other.

Directions are whole numbers of 1/4096 turn and their sines come from a table, so that all that
remains is arithmetic that IEEE 754 fixes to the last bit.
"""

import math

import numba
import numpy as np

from common.data.pathfinder.stream import below, make_stream, uniform

jit = numba.njit(cache=True, nogil=True)

HEADINGS = 4096
DRAWS_PER_PADDLE = 3
TRIES_PER_DISTRACTOR = 20
TRIES_PER_PAIR = 1_000_000
SEED_TOLERANCE = 0.1
RINGS = 16  # half steps of a contour
REDRAWS = 400


def direction_table() -> np.ndarray:
    """Returns (4096, 2) sines and cosines, rounded to 2^-40 so that no libm makes a difference."""
    angles = np.arange(HEADINGS) * (2.0 * math.pi / HEADINGS)
    return np.round(np.stack([np.sin(angles), np.cos(angles)], -1) * 2.0**40) / 2.0**40


def turn_table(continuity: float) -> np.ndarray:
    """Returns cumulative weights (2 k + 1,) int64 of the turns -k ... k, in 1/4096 turn.

    The weight of a turn is cos^2(continuity * turn), and 0 from 90 degrees / continuity on.
    """
    furthest = min(HEADINGS / 2 - 1, HEADINGS / (4.0 * continuity))
    turns = np.arange(-math.ceil(furthest) + 1, math.ceil(furthest))
    angles = turns * (2.0 * math.pi / HEADINGS)
    return np.cumsum(np.round(np.cos(continuity * angles) ** 2 * 2.0**16).astype(np.int64))


@jit
def _draw_turn(stream, turns):
    drawn = np.searchsorted(turns, below(stream, turns[-1]), side="right")
    return drawn - turns.shape[0] // 2


@jit
def _point_segment(py, px, segment):
    y0, x0, y1, x1 = segment
    dy, dx = y1 - y0, x1 - x0
    along = ((py - y0) * dy + (px - x0) * dx) / (dy * dy + dx * dx)
    along = min(1.0, max(0.0, along))
    dy, dx = py - y0 - along * dy, px - x0 - along * dx
    return math.sqrt(dy * dy + dx * dx)


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
def _grow(stream, paddles, count, length, start, heading, shape, tables, low, high):
    """Appends a contour of `length` paddles to the first `count` rows of `paddles`.

    Args:
        stream: the random stream.
        paddles: (n, 4) rows; those from `count` on are overwritten.
        count: rows that hold earlier paddles.
        length: paddles of the contour.
        start: (y, x) of its tail.
        heading: direction of its first paddle, in 1/4096 turn.
        shape: (paddle length, margin, clearance to paddles other than the predecessor).
        tables: (directions, turns).
        low: least coordinate allowed.
        high: greatest coordinate allowed.

    Returns:
        The heading of the last paddle, or -1 where the contour found no room.
    """
    paddle_length, margin, clearance = shape
    directions, turns = tables
    y, x = start
    for i in range(length):
        placed = False
        for _ in range(DRAWS_PER_PADDLE):
            turned = heading + (_draw_turn(stream, turns) if i > 0 else 0)
            dy, dx = directions[turned % HEADINGS]
            gap = margin if i > 0 else 0.0
            y0, x0 = y + gap * dy, x + gap * dx
            paddle = (y0, x0, y0 + paddle_length * dy, x0 + paddle_length * dx)
            earlier = count + i - (1 if i > 0 else 0)
            if _is_free(paddle, paddles, earlier, paddle_length, clearance, low, high):
                placed = True
                break
        if not placed:
            return -1
        paddles[count + i] = paddle
        heading = turned
        y, x = paddle[2] + margin * dy, paddle[3] + margin * dx
    return heading % HEADINGS


@jit
def _reverse(paddles):
    """Turns a contour round in place: head to tail becomes tail to head."""
    paddles[:] = paddles[::-1].copy()
    for i in range(paddles.shape[0]):
        y0, x0, y1, x1 = paddles[i]
        paddles[i] = (y1, x1, y0, x0)


@jit
def _are_apart(own, other, shape):
    """Tells whether two contours keep their clearance from each other."""
    far = 1e9
    for i in range(other.shape[0]):
        paddle = (other[i, 0], other[i, 1], other[i, 2], other[i, 3])
        if not _is_free(paddle, own, own.shape[0], shape[0], shape[2], -far, far):
            return False
    return True


@jit
def _lay_down(stream, targets, axis, low, high):
    """Moves the targets to a uniform place where they and their mirror image fit the window.

    Args:
        stream: the random stream.
        targets: (n, 4), moved; the marked tail is at (0, 0) before.
        axis: (y, x), the unit vector along which the mirror stands at the marked tail.
        low: least coordinate allowed.
        high: greatest coordinate allowed.

    Returns:
        Whether they fit.
    """
    uy, ux = axis
    least, most = np.zeros(2), np.zeros(2)
    for i in range(targets.shape[0]):
        for end in range(0, 4, 2):
            y, x = targets[i, end], targets[i, end + 1]
            along = 2.0 * (y * uy + x * ux)
            least[0] = min(least[0], min(y, along * uy - y))
            least[1] = min(least[1], min(x, along * ux - x))
            most[0] = max(most[0], max(y, along * uy - y))
            most[1] = max(most[1], max(x, along * ux - x))
    for k in range(2):
        room = (high - low) - (most[k] - least[k])
        if room < 0:
            return False
        shift = low - least[k] + room * uniform(stream)
        targets[:, k] += shift
        targets[:, k + 2] += shift
    return True


@jit
def _draw_targets(stream, targets, length, seed_distance, shape, tables, low, high):
    """Fills `targets` (2 length, 4): the contour of the marked tail, then the other one.

    The other contour's head is the mirror image of the first one's, and its last paddle too; the
    mirror stands at the marked tail, along the first paddle.

    Returns:
        Whether they found room.
    """
    far = 1e9
    directions, _ = tables
    own, other = targets[:length], targets[length:]
    for _ in range(TRIES_PER_PAIR):
        heading = below(stream, HEADINGS)
        last = _grow(stream, own, 0, length, (0.0, 0.0), heading, shape, tables, -far, far)
        if last < 0:
            continue
        uy, ux = directions[heading]
        y, x = own[-1, 2], own[-1, 3]
        along = 2.0 * (y * uy + x * ux)
        mirrored = (along * uy - y, along * ux - x)
        back = (2 * heading - last + HEADINGS // 2) % HEADINGS
        if _grow(stream, other, 0, length, mirrored, back, shape, tables, -far, far) < 0:
            continue
        off = abs(math.sqrt(other[-1, 2] ** 2 + other[-1, 3] ** 2) - seed_distance)
        if off > SEED_TOLERANCE * seed_distance:
            continue
        _reverse(other)
        if _are_apart(own, other, shape) and _lay_down(stream, targets, (uy, ux), low, high):
            return True
    return False


@jit
def _scatter(stream, paddles, count, length, shape, tables, low, high):
    """Puts a contour of `length` paddles anywhere behind the first `count`, if it finds room."""
    start = (low + (high - low) * uniform(stream), low + (high - low) * uniform(stream))
    heading = below(stream, HEADINGS)
    return _grow(stream, paddles, count, length, start, heading, shape, tables, low, high) >= 0


@jit
def _imbalance(paddles, one, other, step):
    """Compares how many paddles lie within any distance of two points.

    Returns:
        The difference between the two counts, summed over the RINGS distances of half a step.
    """
    rings = np.zeros(RINGS + 1, np.int64)
    for i in range(paddles.shape[0]):
        y, x = 0.5 * (paddles[i, 0] + paddles[i, 2]), 0.5 * (paddles[i, 1] + paddles[i, 3])
        away = math.sqrt((y - one[0]) ** 2 + (x - one[1]) ** 2)
        rings[min(RINGS, int(2.0 * away / step))] += 1
        away = math.sqrt((y - other[0]) ** 2 + (x - other[1]) ** 2)
        rings[min(RINGS, int(2.0 * away / step))] -= 1
    total, within = 0, 0
    for k in range(RINGS):
        within += rings[k]
        total += abs(within)
    return total


@jit
def _balance(stream, paddles, count, length, distractor_length, shape, tables, low, high):
    """Redraws distractors, one at a time, so that as many paddles lie around either head."""
    first = 2 * length
    number = (count - first) // distractor_length
    step = shape[0] + 2.0 * shape[1]
    one, other = paddles[length - 1, 2:].copy(), paddles[first - 1, 2:].copy()
    imbalance = _imbalance(paddles[:count], one, other, step)
    last = count - distractor_length
    for _ in range(REDRAWS):
        if imbalance == 0 or number == 0:
            return
        chosen = first + distractor_length * below(stream, number)
        before = paddles[first:count].copy()
        paddles[chosen : chosen + distractor_length] = paddles[last:count]
        now = imbalance + 1
        if _scatter(stream, paddles, last, distractor_length, shape, tables, low, high):
            now = _imbalance(paddles[:count], one, other, step)
        if now > imbalance:
            paddles[first:count] = before
        else:
            imbalance = now


@jit
def _draw_scene(stream, paddles, seed_distance, counts, shape, tables, low, high):
    """Fills `paddles` (p, 4); returns how many there are, 0 where the targets found no room."""
    length, distractors, distractor_length = counts
    targets = paddles[: 2 * length]
    if not _draw_targets(stream, targets, length, seed_distance, shape, tables, low, high):
        return 0
    count = 2 * length
    for _ in range(distractors * TRIES_PER_DISTRACTOR):
        if count == paddles.shape[0]:
            break
        if _scatter(stream, paddles, count, distractor_length, shape, tables, low, high):
            count += distractor_length
    _balance(stream, paddles, count, length, distractor_length, shape, tables, low, high)
    return count


@jit
def fill_scenes(seed, start, lengths, counts, tables, paddles, placed, markers):
    """Fills the scenes `start` ... `start + n - 1` of `seed`. Even numbers are positive.

    Args:
        seed: number of the family's member.
        start: number of the first scene.
        lengths: (window, padding, seed distance, paddle length, margin, clearance).
        counts: (paddles in a target, distractors, paddles in a distractor).
        tables: (`direction_table()`, `turn_table(continuity)`).
        paddles: (n, p, 4), filled: the marked tail's contour, the other target, the distractors.
        placed: (n,), filled: how many rows of `paddles` are there; 0 where there was no room.
        markers: (n, 2, 2), filled: (y, x) of the marked tail and the marked head.
    """
    window, padding, seed_distance, paddle_length, margin, clearance = lengths
    length = counts[0]
    shape = (paddle_length, margin, clearance)
    drawn, row = -1, 0
    for i in range(paddles.shape[0]):
        index = start + i
        if index // 2 != drawn:
            drawn, row = index // 2, i
            placed[i] = _draw_scene(
                make_stream(seed, drawn),
                paddles[i],
                seed_distance,
                counts,
                shape,
                tables,
                padding,
                window - padding,
            )
        paddles[i], placed[i] = paddles[row], placed[row]
        if placed[i] == 0:
            return
        own = paddles[i, :length]
        end = own[-1] if index % 2 == 0 else paddles[i, 2 * length - 1]
        markers[i, 0], markers[i, 1] = own[0, :2], end[2:]
