"""Which image tokens a text token may see, where an example has several images or tiles.

Every mask is (b, t, s): True where text token t may see image token s; the image tokens of the
first tile come first, then those of the second, and so on.
"""

import jax.numpy as jnp

from common.array_types import Array, Bool, Int


def tile_mask(
    visible: Bool[Array, "b t n"] | Int[Array, "b t n"], tokens_per_tile: int
) -> Bool[Array, "b t s"]:
    """Returns the mask of a table that says which tiles a text token may see."""
    return jnp.repeat(jnp.asarray(visible) != 0, tokens_per_tile, axis=-1)


def tile_tag_mask(
    tokens: Int[Array, "b t"], first_tag: int, tiles: int, tokens_per_tile: int
) -> Bool[Array, "b t s"]:
    """Lets the tag of a tile see that tile, and other tokens all tiles whose tags came before.

    Tag i is the token `first_tag + i`. Text before the first tag sees nothing. Source: Dai et al.
    2024, "NVLM: Open frontier-class multimodal LLMs", section 4 (text-based tile tags).
    """
    numbers = tokens - first_tag
    is_tag = (numbers >= 0) & (numbers < tiles)
    own = (numbers[..., None] == jnp.arange(tiles)[None, None]) & is_tag[..., None]
    come = jnp.cumsum(own, axis=1) > 0
    return tile_mask(jnp.where(is_tag[..., None], own, come), tokens_per_tile)


def latest_image_mask(
    is_image: Bool[Array, "b t"], images: int, tokens_per_image: int
) -> Bool[Array, "b t s"]:
    """Lets a text token see the image whose place came last, and no other.

    Source: Alayrac et al. 2022, "Flamingo", section 2.3. Text before the first image sees nothing.

    Args:
        is_image: True at the places of images in the text, the first place being that of image 0.
        images: number of images of each example, places or not.
        tokens_per_image: image tokens of each.
    """
    latest = jnp.cumsum(is_image, axis=1) - 1
    return tile_mask(latest[..., None] == jnp.arange(images)[None, None], tokens_per_image)
