"""A picture of many labelled images at once: positives above, negatives below."""

import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from common.analysis.style import BLACK, CLASS_COLOURS, GREY

NAMES = ("Two contours (label 0)", "One contour (label 1)")
WIDTH, LEAST_COLUMNS, PER_LABEL = 1200, 4, 24
MARGIN, GAP, BAND = 24, 8, 38


def contact_sheet(images: np.ndarray, labels: np.ndarray, title: str) -> Image.Image:
    """Draws the first images of each label, each pixel as a whole number of pixels.

    Args:
        images: (n, s, s) uint8.
        labels: (n,) 0 or 1.
        title: stands above.
    """
    side = images.shape[-1]
    zoom = max(1, round(128 / side))
    cell = side * zoom
    columns = max(LEAST_COLUMNS, (WIDTH - 2 * MARGIN + GAP) // (cell + GAP))
    shown = PER_LABEL // columns * columns if columns > LEAST_COLUMNS else 2 * columns
    chosen = {label: images[labels == label][:shown] for label in (1, 0)}
    heights = {x: -(-len(found) // columns) * (cell + GAP) for x, found in chosen.items()}
    width = 2 * MARGIN + columns * (cell + GAP) - GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + 3 * BAND + sum(heights.values())), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, BLACK, _font(20, "bold"))
    top = MARGIN + BAND
    for label, found in chosen.items():
        draw.text((MARGIN, top + 6), NAMES[label], CLASS_COLOURS[label], _font(17, "bold"))
        note = f"{len(found)} of them, {zoom} : 1" if len(found) else "none"
        draw.text((width - MARGIN, top + 8), note, GREY, _font(14), anchor="ra")
        top += BAND
        for i, image in enumerate(found):
            x = MARGIN + i % columns * (cell + GAP)
            y = top + i // columns * (cell + GAP)
            large = np.repeat(np.repeat(image, zoom, 0), zoom, 1)
            sheet.paste(Image.fromarray(large), (x, y))
        top += heights[label]
    return sheet


def _font(size: int, weight: str = "normal") -> ImageFont.FreeTypeFont:
    properties = font_manager.FontProperties(family="DejaVu Sans", weight=weight)
    return ImageFont.truetype(font_manager.findfont(properties), size)
