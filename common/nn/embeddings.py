"""Position codes that are added to maps, or turned into them, before the first block.

All are called as embedding(x, steps, start) and give frames (b, t, h, w, c); a still image (t = 1)
stays one frame where the code does not change with time. `start` is the time of the first frame of
a piece of a sequence and may be traced; None stands for a whole sequence. Source:
drewlinsley/CSSM, February 2026.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float, Time
from common.nn.positions import rotate_space, time_code


class NoEmbedding(nn.Module):
    """Leaves the maps as they are."""

    def __call__(
        self, x: Float[Array, "b t h w c"], steps: int, start: Time | None = None
    ) -> Float[Array, "b t h w c"]:
        """Returns x."""
        del steps, start
        return x


class LearnedMap(nn.Module):
    """Adds one learned map to every frame; it ties the parameters to the size of the map.

    Attributes:
        param_dtype: dtype of the map.
    """

    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], steps: int, start: Time | None = None
    ) -> Float[Array, "b t h w c"]:
        """Returns x plus the map."""
        del steps, start
        shape = (1, 1, *x.shape[-3:])
        table = self.param("pos_embed", nn.initializers.normal(0.02), shape, self.param_dtype)
        return x + jnp.broadcast_to(table, x.shape).astype(x.dtype)


class LearnedTime(nn.Module):
    """Turns by row and column (`rotate_space`), then adds a learned vector for each time.

    Attributes:
        rows: times that have a vector of their own; longer sequences interpolate between them.
        param_dtype: dtype of the vectors.
    """

    rows: int = 32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], steps: int, start: Time | None = None
    ) -> Float[Array, "b T h w c"]:
        """Returns the maps of all `steps` times.

        How long a sequence in pieces will be is not known, so nothing is interpolated in it:
        beyond the table all is NaN.
        """
        shape = (self.rows, x.shape[-1])
        table = self.param("temporal_embed", nn.initializers.normal(0.02), shape, self.param_dtype)
        if start is None:
            code = _stretch(table, steps)
        else:
            times = start + jnp.arange(steps)
            code = jnp.take(table, times, 0, mode="fill", fill_value=jnp.nan)
        return _add_in_time(rotate_space(x, steps), code)


class SinusoidalTime(nn.Module):
    """Turns by row and column (`rotate_space`), then adds `time_code`."""

    def __call__(
        self, x: Float[Array, "b t h w c"], steps: int, start: Time | None = None
    ) -> Float[Array, "b T h w c"]:
        """Returns the maps of all `steps` times."""
        return _add_in_time(
            rotate_space(x, steps), time_code(steps, x.shape[-1], 0 if start is None else start)
        )


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
