"""An encoder of pictures that needs no training."""

import numpy as np

from experiments.models.scene_encoder import map_side


def seeing(config):
    """An encoder of random parameters: the mean colour around every place, and its own code."""
    size, width = config.data.image_size, config.model.width
    side, rng = map_side(size), np.random.default_rng(0)
    starts = np.arange(side) * size // side
    project, code = (rng.standard_normal((n, width)) for n in (3, side**2))

    def see(images):
        x = 1 - np.asarray(images) / 255.0
        for axis in (1, 2):
            x = np.add.reduceat(x, starts, axis) * side / size
        return (x.reshape(len(x), -1, 3) @ project + code).astype(np.float32)

    return see
