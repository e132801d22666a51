"""The reference layout: contours on whole pixels, as the public Pathfinder generator lays them.

Two targets grow in turns from tails `seed_distance` apart, then come the distractors, then the
markers: one on a tail, one on a far head, of the same contour in a positive image and of the other
one in a negative image. Collisions are looked up in a mask of footprints. A paddle's footprint
enters the mask only when its contour has gone on, so the newest paddles of the two targets are
never tested against each other, and the first target's last paddle never stands in the mask at
all: in some 5 % of the images targets touch. The distance between the markers betrays the label.
After drewlinsley/pathfinder (Linsley et al. 2018), as it runs at its published settings.
"""

import numba
import numpy as np

from common.data.pathfinder.stream import below, make_stream, uniform

jit = numba.njit(cache=True, nogil=True)

DEGREES = 360
DRAWS_PER_PADDLE = 3
TRIES_PER_DISTRACTOR = 5
TRIES_PER_PAIR = 1_000_000
TRIES_PER_START = 100_000
FULL = 255
COLLISION = 459  # 1.8 of full


@jit
def _press(mask, stamp, y, x):
    """Takes the maximum of a mask and a stamp (odd, odd) that is centred on a pixel."""
    reach = stamp.shape[0] // 2
    height, width = mask.shape
    for i in range(max(0, y - reach), min(height, y + reach + 1)):
        for j in range(max(0, x - reach), min(width, x + reach + 1)):
            mask[i, j] = max(mask[i, j], stamp[i - y + reach, j - x + reach])


@jit
def _collides(mask, stamp, y, x):
    reach = stamp.shape[0] // 2
    height, width = mask.shape
    for i in range(max(0, y - reach), min(height, y + reach + 1)):
        for j in range(max(0, x - reach), min(width, x + reach + 1)):
            if np.int64(mask[i, j]) + np.int64(stamp[i - y + reach, j - x + reach]) >= COLLISION:
                return True
    return False


@jit
def _frame(mask, width):
    inner = mask.shape[0] - width
    mask[:] = FULL
    mask[width:inner, width:inner] = 0


@jit
def _draw_way(stream, halo_mask, y, x, way, tables):
    """Draws how a contour goes on from a pivot; -1 where no way is open."""
    heads, weights = tables[2], tables[4]
    height, width = halo_mask.shape
    cumulative = np.empty(heads.shape[0])
    total = 0.0
    for m in range(heads.shape[0]):
        i, j = y + heads[m, 0], x + heads[m, 1]
        if weights[way, m] > 0.0 and 0 <= i < height and 0 <= j < width:
            total += weights[way, m] * (FULL - np.int64(halo_mask[i, j]))
        cumulative[m] = total
    if total <= 0.0:
        return -1
    drawn = uniform(stream) * total
    for m in range(heads.shape[0]):
        if drawn < cumulative[m]:
            return DEGREES + m
    return -1


@jit
def _start(way, y, x, tables, tip, stamped, row):
    """Sets a contour's tip (pivot y, pivot x, way), its first paddle's tail being at (y, x)."""
    first_pivots = tables[1]
    tip[0], tip[1], tip[2] = y + first_pivots[way, 0], x + first_pivots[way, 1], way
    stamped[row, 0], stamped[row, 1], stamped[row, 2] = way, y, x


@jit
def _extend(stream, mask, halo_mask, tip, tables, stamped, row):
    """Adds a paddle to a contour, in `stamped[row]`; its predecessor enters the masks.

    Returns:
        Whether there was room.
    """
    pivots, heads, footprints, halos = tables[0], tables[2], tables[5], tables[6]
    last = stamped[row - 1]
    y, x = tip[0] + pivots[tip[2], 0], tip[1] + pivots[tip[2], 1]
    for _ in range(DRAWS_PER_PADDLE):
        way = _draw_way(stream, halo_mask, y, x, tip[2], tables)
        if way < 0:
            return False
        head_y, head_x = y + heads[way - DEGREES, 0], x + heads[way - DEGREES, 1]
        if not _collides(mask, footprints[way], head_y, head_x):
            _press(mask, footprints[last[0]], last[1], last[2])
            _press(halo_mask, halos[last[0]], last[1], last[2])
            tip[0], tip[1], tip[2] = y, x, way
            stamped[row, 0], stamped[row, 1], stamped[row, 2] = way, head_y, head_x
            return True
    return False


@jit
def _draw_targets(stream, mask, halo_mask, window, padding, seed_distance, length, tables, stamped):
    """Fills rows [0, 2 length) of `stamped`; tells whether the targets found room."""
    first_heads, footprints, halos, lines = tables[3], tables[5], tables[6], tables[7]
    margin = (halos.shape[1] - footprints.shape[1]) // 2
    low, high = 2 * seed_distance + margin, window - 2 * seed_distance - margin
    tips = np.empty((2, 3), np.int64)
    for _ in range(TRIES_PER_PAIR):
        way = below(stream, DEGREES)
        y, x = below(stream, window), below(stream, window)
        head_y, head_x = y + first_heads[way, 0], x + first_heads[way, 1]
        if min(min(y, x), min(head_y, head_x)) < low or max(max(y, x), max(head_y, head_x)) >= high:
            continue
        _frame(mask, padding)
        _frame(halo_mask, padding + margin)
        _start(way, y, x, tables, tips[0], stamped, 0)
        towards = lines[below(stream, DEGREES)]
        scale = seed_distance / np.sqrt(towards[0] ** 2 + towards[1] ** 2)
        y += np.int64(np.floor(scale * towards[0] + 0.5))
        x += np.int64(np.floor(scale * towards[1] + 0.5))
        _start(below(stream, DEGREES), y, x, tables, tips[1], stamped, length)
        grown = True
        for i in range(1, length):
            for target in range(2):
                row = target * length + i
                grown = grown and _extend(
                    stream, mask, halo_mask, tips[target], tables, stamped, row
                )
        if grown:
            way, y, x = stamped[2 * length - 1]
            _press(mask, footprints[way], y, x)
            _press(halo_mask, halos[way], y, x)
            return True
    return False


@jit
def _copy_around(source, target, y, x, reach):
    low, high = max(0, y - reach), max(0, x - reach)
    target[low : y + reach + 1, high : x + reach + 1] = source[
        low : y + reach + 1, high : x + reach + 1
    ]


@jit
def _draw_distractor(stream, masks, spares, length, tables, stamped, count):
    """Appends a contour to the first `count` rows of `stamped`; tells whether it found room.

    The contour is tried on the spare masks, which are equal to the masks before and after.
    """
    pivots, footprints, halos = tables[0], tables[5], tables[6]
    window = masks[0].shape[0]
    way = below(stream, DEGREES)
    y = x = -1
    for _ in range(TRIES_PER_START):
        y, x = below(stream, window), below(stream, window)
        if not _collides(masks[0], footprints[way], y, x):
            break
        y = -1
    if y < 0:
        return False
    tip = np.empty(3, np.int64)
    _start(way, y, x, tables, tip, stamped, count)
    grown = True
    for i in range(1, length):
        grown = grown and _extend(stream, spares[0], spares[1], tip, tables, stamped, count + i)
    reach = length * (np.abs(pivots).max() + 1) + halos.shape[1]
    if grown:
        last = stamped[count + length - 1]
        _press(spares[0], footprints[last[0]], last[1], last[2])
        _press(spares[1], halos[last[0]], last[1], last[2])
        _copy_around(spares[0], masks[0], y, x, reach)
        _copy_around(spares[1], masks[1], y, x, reach)
    else:
        _copy_around(masks[0], spares[0], y, x, reach)
        _copy_around(masks[1], spares[1], y, x, reach)
    return grown


@jit
def _trace(stamped, count, length, distractor_length, tables, paddles):
    """Turns whole-pixel paddles into rows (y0, x0, y1, x1), tail to head, of a continuous plane."""
    lines = tables[7]
    for i in range(count):
        way, y, x = stamped[i]
        here = (y + 0.5, x + 0.5)
        there = (here[0] + lines[way, 0], here[1] + lines[way, 1])
        first, last = (here, there) if way < DEGREES else (there, here)
        paddles[i, 0], paddles[i, 1] = first
        paddles[i, 2], paddles[i, 3] = last


@jit
def fill_scenes(seed, start, sizes, counts, tables, paddles, placed, markers, stamped):
    """Fills the scenes `start` ... `start + n - 1` of `seed`. Even numbers are positive.

    Args:
        seed: number of the family's member.
        start: number of the first scene.
        sizes: (window, padding, seed distance), whole pixels.
        counts: (paddles in a target, distractors, paddles in a distractor).
        tables: `stamps.Geometry`.
        paddles: (n, p, 4), filled: the marked tail's contour, the other target, the distractors.
        placed: (n,), filled: how many rows of `paddles` are there; 0 where there was no room.
        markers: (n, 2, 2), filled: (y, x) of the marked tail and the marked head.
        stamped: (n, p + 2, 3) int32, filled: (way, y, x) of each paddle; then (y, x) of each disc.
    """
    window, padding, seed_distance = sizes
    length, distractors, distractor_length = counts
    masks = (np.empty((window, window), np.uint8), np.empty((window, window), np.uint8))
    spares = (np.empty((window, window), np.uint8), np.empty((window, window), np.uint8))
    for n in range(paddles.shape[0]):
        stream = make_stream(seed, start + n)
        rows = stamped[n]
        if not _draw_targets(
            stream, masks[0], masks[1], window, padding, seed_distance, length, tables, rows
        ):
            placed[n] = 0
            return
        spares[0][:], spares[1][:] = masks[0], masks[1]
        count = 2 * length
        for _ in range(distractors):
            for _ in range(TRIES_PER_DISTRACTOR):
                if _draw_distractor(stream, masks, spares, distractor_length, tables, rows, count):
                    count += distractor_length
                    break
        placed[n] = count
        if below(stream, 2) == 1:  # the marked tail's contour comes first
            other = rows[:length].copy()
            rows[:length] = rows[length : 2 * length]
            rows[length : 2 * length] = other
        own = length - 1
        far = own if (start + n) % 2 == 0 else 2 * length - 1
        _trace(rows, count, length, distractor_length, tables, paddles[n])
        rows[-2, 1:] = rows[0, 1:]
        if far % length == 0:  # a contour of one paddle ends where its first paddle does
            rows[-1, 1] = rows[far, 1] + tables[3][rows[far, 0], 0]
            rows[-1, 2] = rows[far, 2] + tables[3][rows[far, 0], 1]
        else:
            rows[-1, 1:] = rows[far, 1:]
        for k in range(2):
            markers[n, k, 0], markers[n, k, 1] = rows[k - 2, 1] + 0.25, rows[k - 2, 2] + 0.25


@jit
def fill_images(stamped, placed, bars, disc, images):
    """Fills `images` (n, w, w) uint8 with the stamps of scenes, combined by maximum."""
    images[:] = 0
    for n in range(images.shape[0]):
        for i in range(placed[n]):
            way, y, x = stamped[n, i]
            _press(images[n], bars[way], y, x)
        for k in range(2):
            _press(images[n], disc, stamped[n, k - 2, 1], stamped[n, k - 2, 2])
