"""Examples of a Pathfinder data set: what each holds, and what a set of them is called."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from common.data.pathfinder.dataset import GENERATOR_VERSION
from common.data.pathfinder.scene import draw_images
from common.data.pathfinder.settings import PathfinderSettings

TFDS_NAME = "pathfinder"
TFDS_VERSION = f"{GENERATOR_VERSION}.0.0"
CHUNK = 64


def config_name(settings: PathfinderSettings) -> str:
    """Returns e.g. '14_matched_128': contour length, layout and image size."""
    return f"{settings.contour_length}_{settings.layout}_{settings.image_size}"


def draw_examples(
    settings: PathfinderSettings, seed: int, start: int, count: int
) -> Iterator[dict[str, Any]]:
    """Yields examples `start` ... `start + count - 1` of a split's seed, drawn a few at a time.

    Each has 'image' (s, s) uint8, 'label' 0 or 1, and 'markers' (2, 2) float32, the centres
    (y, x) of the discs in pixels of the image.
    """
    scale = np.float32(settings.image_size / settings.window)
    for first in range(start, start + count, CHUNK):
        drawn = draw_images(settings, seed, first, min(CHUNK, start + count - first))
        markers = drawn.markers * scale
        for image, label, marker in zip(drawn.images, drawn.labels, markers, strict=True):
            yield {"image": image, "label": int(label), "markers": marker}


def encode_png(image: np.ndarray) -> bytes:
    """Returns a grey image (h, w) uint8 as the bytes of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=4)
    return stream.getvalue()
