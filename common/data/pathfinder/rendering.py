"""Draws scenes at any size: bars and discs with antialiased edges, combined by maximum.

Pixel (i, j) is the unit square around (i + 0.5, j + 0.5). Geometry is scaled, pictures never are.
"""

import math

import numba
import numpy as np

jit = numba.njit(cache=True, nogil=True)


@jit
def _overlap(centre, half):
    """Length of [centre - 0.5, centre + 0.5] inside [-half, half]."""
    return max(0.0, min(half, centre + 0.5) - max(-half, centre - 0.5))


@jit
def draw_bar(image, y0, x0, y1, x1, thickness):
    """Draws a flat-ended bar (pixels) into a float image (h, w) by pixelwise maximum."""
    length = math.sqrt((y1 - y0) ** 2 + (x1 - x0) ** 2)
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
            dy, dx = i + 0.5 - y, j + 0.5 - x
            inside = radius + 0.5 - math.sqrt(dy * dy + dx * dx)
            image[i, j] = max(image[i, j], min(1.0, max(0.0, inside)))


@jit
def fill_images(paddles, placed, markers, drawing, images):
    """Fills `images` (n, s, s) uint8 with scenes.

    Args:
        paddles: (n, p, 4) rows (y0, x0, y1, x1).
        placed: (n,) rows of `paddles` that count.
        markers: (n, 2, 2) centres of the discs.
        drawing: (pixels per unit of length, thickness and radius in units of length).
        images: (n, s, s), filled.
    """
    scale, thickness, radius = drawing
    size = images.shape[1]
    canvas = np.empty((size, size), np.float32)
    for n in range(images.shape[0]):
        canvas[:] = 0.0
        for i in range(placed[n]):
            y0, x0, y1, x1 = paddles[n, i]
            draw_bar(canvas, y0 * scale, x0 * scale, y1 * scale, x1 * scale, thickness * scale)
        for i in range(2):
            draw_disc(canvas, markers[n, i, 0] * scale, markers[n, i, 1] * scale, radius * scale)
        for i in range(size):
            for j in range(size):
                images[n, i, j] = np.uint8(255.0 * canvas[i, j] + 0.5)
