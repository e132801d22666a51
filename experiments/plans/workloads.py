"""Sizes of a training step of the Q/K/A model, and what follows from them."""

import dataclasses
from typing import Any

from flax import linen as nn
from ml_collections import ConfigDict

from experiments.models.vision import make_model

GATES, STATES = 10, 3
"""Of the block `transformer`."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """A training step.

    Attributes:
        name: how the page calls it.
        batch: sequences B.
        size: height and width of the images, pixels; a multiple of 4.
        width: channels C.
        steps: time steps T.
        video: whether every step has a frame of its own; otherwise one image is shown T times.
        kernel: side k of the spatial kernel, cells of the map.
    """

    name: str
    batch: int
    size: int
    width: int
    steps: int
    video: bool
    kernel: int = 15

    @property
    def frames(self) -> int:
        """Frames F of a sequence that pass the stem."""
        return self.steps if self.video else 1

    @property
    def pixels(self) -> int:
        """Pixels N of a frame."""
        return self.size**2

    @property
    def side(self) -> int:
        """Height and width of the map, cells."""
        return self.size // 4

    @property
    def cells(self) -> int:
        """Cells P of the map."""
        return self.side**2

    @property
    def frequencies(self) -> int:
        """Frequencies M of a half spectrum of the map."""
        return self.side * (self.side // 2 + 1)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        c, m = self.width, self.frequencies
        stem = 27 * c + c + 9 * c * c + c + 4 * c
        block = c * self.kernel**2 + GATES * (c * m + m) + 2 * STATES * c * c + (STATES + 1) * c
        return stem + block + 4 * c + 2 * c + 2

    def model(self) -> nn.Module:
        """Builds the model."""
        fields: dict[str, Any] = {
            "name": "simple_cssm",
            "cssm_type": "transformer",
            "embed_dim": self.width,
            "kernel_size": self.kernel,
            "seq_len": self.steps,
            "pos_embed": "spatiotemporal",
            "dtype": "float32",
        }
        return make_model(ConfigDict(fields))


PATHFINDER = Workload("Pathfinder, 224 pixels", 256, 224, 64, 8, video=False)
VIDEO = Workload("video, 512 pixels, 1,024 frames", 8, 512, 64, 1024, video=True)
