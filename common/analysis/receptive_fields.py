"""How far a feature sees: gradients of one place of a map with respect to the input."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from common.array_types import Array, Float


def receptive_field(
    features: Callable[[Array], Array],
    x: Float[Array, "b *frame H W colours"],
    place: tuple[int, int] | None = None,
) -> Float[Array, "b *frame H W"]:
    """Returns how strongly each pixel acts on the features at one place of a map.

    The root of the summed squares of d feature / d pixel, over the features' channels and the
    colours: the effective receptive field of Luo, Li, Urtasun and Zemel 2016, for all channels at
    once. One backward pass for each channel.

    Args:
        features: maps inputs to a map (b, h, w, c), each example on its own.
        x: images, or videos, whose every frame gets a field of its own.
        place: row and column of the map; its middle by default.
    """

    def at_place(x: Array) -> Float[Array, "b c"]:
        maps = features(x)
        row, column = place or (maps.shape[-3] // 2, maps.shape[-2] // 2)
        return maps[:, row, column]

    found, pull_back = jax.vjp(at_place, x)

    def square(channel: Array) -> Array:
        chosen = jnp.zeros_like(found).at[:, channel].set(1.0)
        return (pull_back(chosen)[0] ** 2).sum(-1)

    total, _ = lax.scan(
        lambda total, channel: (total + square(channel), None),
        jnp.zeros(x.shape[:-1], x.dtype),
        jnp.arange(found.shape[-1]),
    )
    return jnp.sqrt(total)


def field_radius(
    field: Float[np.ndarray, "*b H W"],
    share: float = 0.5,
    centre: tuple[float, float] | None = None,
) -> Float[np.ndarray, "*b"]:
    """Returns how far from the centre one must go to hold a share of a field's squares, in pixels.

    Args:
        field: as `receptive_field` gives it.
        share: of the sum of squares, between 0 and 1; 0.5 gives the median distance.
        centre: row and column, pixels; the middle of the picture by default.

    Raises:
        ValueError: a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; expected a number above 0, up to 1")
    height, width = field.shape[-2:]
    y, x = centre or ((height - 1) / 2, (width - 1) / 2)
    distance = np.hypot(np.arange(height)[:, None] - y, np.arange(width)[None] - x).ravel()
    order = np.argsort(distance, kind="stable")
    energy = (np.asarray(field, np.float64) ** 2).reshape(*field.shape[:-2], -1)[..., order]
    running = np.cumsum(energy, -1)
    wanted = share * running[..., -1:] * (1 - 1e-12)
    return distance[order][np.argmax(running >= wanted, axis=-1)]
