"""Draws paddles and discs with the exact area of each pixel that they cover, to good accuracy.

Compiled with Numba. A pixel (i, j) is the unit square around (i + 0.5, j + 0.5).
"""

import math

import numba

jit = numba.njit(cache=True, nogil=True)


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
