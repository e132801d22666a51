"""Images as the models want them."""

import jax.numpy as jnp

from common.array_types import Array, Float, UInt8

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise_grey(images: UInt8[Array, "*b h w"]) -> Float[Array, "*b h w 3"]:
    """Turns grey bytes into three equal channels, less ImageNet's mean, over its deviation."""
    scaled = images.astype(jnp.float32) / 255.0
    channels = [(scaled - m) / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)]
    return jnp.stack(channels, -1)
