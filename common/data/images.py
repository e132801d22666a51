"""Images as the models want them."""

import jax.numpy as jnp
import numpy as np

from common.array_types import Array, Float, UInt8

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise_grey(images: UInt8[Array, "*b h w"]) -> Float[Array, "*b h w 3"]:
    """Turns grey bytes into three equal channels, less ImageNet's mean, over its deviation."""
    scaled = images.astype(jnp.float32) / 255.0
    channels = [(scaled - m) / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    return jnp.stack(channels, -1)


_GREY = (np.arange(256, dtype=np.float32) / np.float32(255))[:, None]
_NORMALISED = (_GREY - np.array(IMAGENET_MEAN, np.float32)) / np.array(IMAGENET_STD, np.float32)


def normalise_bytes(images: np.ndarray) -> np.ndarray:
    """Does what `normalise_grey` does, outside of JAX; (*b, h, w) uint8 to (*b, h, w, 3)."""
    return _NORMALISED[images]


def denormalise(images: np.ndarray) -> np.ndarray:
    """Turns ImageNet-normalised images (*b, h, w, 3) back into bytes (*b, h, w, 3)."""
    scaled = images * np.array(IMAGENET_STD, np.float32) + np.array(IMAGENET_MEAN, np.float32)
    return np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)


def grey_bytes(images: np.ndarray) -> np.ndarray:
    """Turns images as any source gives them into grey bytes (*b, h, w).

    Args:
        images: uint8 (*b, h, w), or float32 (*b, h, w, 3), ImageNet-normalised; of colours the
            first one is taken.
    """
    return images if images.dtype == np.uint8 else denormalise(images)[..., 0]
