"""Position codes that are added to maps, or turned into them, before the first block.

All are called as embedding(x, steps) and give frames (b, t, h, w, c); a still image (t = 1) stays
one frame where the code does not change with time. Source: drewlinsley/CSSM, February 2026.
"""

import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.nn.positions import rotate_space, time_code


class NoEmbedding(nn.Module):
    """Leaves the maps as they are."""

    def __call__(self, x: Float[Array, "b t h w c"], steps: int) -> Float[Array, "b t h w c"]:
        """Returns x."""
        del steps
        return x


class LearnedMap(nn.Module):
    """Adds one learned map to every frame; it ties the parameters to the size of the map."""

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w c"], steps: int) -> Float[Array, "b t h w c"]:
        """Returns x plus the map."""
        del steps
        shape = (1, 1, *x.shape[-3:])
        table = self.param("pos_embed", nn.initializers.normal(0.02), shape, jnp.float32)
        return x + jnp.broadcast_to(table, x.shape).astype(x.dtype)


class LearnedTime(nn.Module):
    """Turns by row and column (`rotate_space`), then adds a learned vector for each time.

    Attributes:
        rows: times that have a vector of their own; longer sequences interpolate between them.
    """

    rows: int = 32

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w c"], steps: int) -> Float[Array, "b T h w c"]:
        """Returns the maps of all `steps` times."""
        shape = (self.rows, x.shape[-1])
        table = self.param("temporal_embed", nn.initializers.normal(0.02), shape, jnp.float32)
        return _add_in_time(rotate_space(x, steps), _stretch(table, steps))


class SinusoidalTime(nn.Module):
    """Turns by row and column (`rotate_space`), then adds `time_code`."""

    def __call__(self, x: Float[Array, "b t h w c"], steps: int) -> Float[Array, "b T h w c"]:
        """Returns the maps of all `steps` times."""
        return _add_in_time(rotate_space(x, steps), time_code(steps, x.shape[-1]))


def _add_in_time(x: Array, code: Float[Array, "T c"]) -> Array:
    shape = (x.shape[0], code.shape[0], *x.shape[2:])
    code = jnp.broadcast_to(code[None, :, None, None], shape)
    return jnp.broadcast_to(x, shape) + code.astype(x.dtype)


def _stretch(table: Float[Array, "rows c"], steps: int) -> Float[Array, "T c"]:
    """Returns the first rows, or, where steps are more, as many rows evenly over the table."""
    rows = table.shape[0]
    if steps <= rows:
        return table[:steps]
    places = jnp.linspace(0.0, rows - 1.0, steps)
    below = jnp.minimum(jnp.floor(places).astype(jnp.int32), rows - 2)
    share = (places - below)[:, None]
    return (1.0 - share) * table[below] + share * table[below + 1]
