"""Rotary position codes over time and space, and the sinusoidal code of time."""

from collections.abc import Callable

import jax.numpy as jnp

from common.array_types import Array, Float

Rotary = Callable[[Array, int], Array]


def rotary_frequencies(channels: int) -> Float[Array, "c"]:
    """Returns the angular frequencies 10000^(-2j / c) of the c / 2 pairs of channels."""
    if channels % 2:
        raise ValueError(f"rotary positions need an even number of channels; got {channels}")
    return 10000.0 ** (-jnp.arange(0, channels, 2) / channels)


def rotate_pairs(x: Float[Array, "*b c"], angles: Float[Array, "*b c//2"]) -> Float[Array, "*b c"]:
    """Rotates channel pairs (2j, 2j + 1) by `angles`, radians."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    rotated = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return rotated.reshape(x.shape)


def _spatial_angles(height: int, width: int, pairs: int, f: Array) -> Float[Array, "h w j"]:
    rows, columns = f[0::2], f[1::2]
    rows = jnp.pad(rows, (0, pairs - rows.size))
    columns = jnp.pad(columns, (0, pairs - columns.size))
    y, x = jnp.outer(jnp.arange(height), rows), jnp.outer(jnp.arange(width), columns)
    return y[:, None] + x[None]


def _temporal_angles(steps: int, f: Array) -> Float[Array, "t 1 1 j"]:
    return jnp.outer(jnp.arange(steps), f)[:, None, None]


def no_rotation(x: Float[Array, "b t h w c"], steps: int) -> Float[Array, "b t h w c"]:
    """Leaves x as it is."""
    del steps
    return x


def rotate_space(x: Float[Array, "b t h w c"], steps: int) -> Float[Array, "b t h w c"]:
    """Rotates by row and column: even frequencies turn with y, odd ones with x."""
    del steps
    *_, height, width, channels = x.shape
    f = rotary_frequencies(channels)
    angles = _spatial_angles(height, width, f.size, f)
    return rotate_pairs(x, jnp.broadcast_to(angles, (*x.shape[:-1], f.size)))


def rotate_time(x: Float[Array, "b t h w c"], steps: int) -> Float[Array, "b t h w c"]:
    """Rotates by time; a still image (t = 1) becomes `steps` frames."""
    f = rotary_frequencies(x.shape[-1])
    return _rotate_frames(x, _temporal_angles(steps, f), steps)


def rotate_spacetime(x: Float[Array, "b t h w c"], steps: int) -> Float[Array, "b t h w c"]:
    """Rotates by time, row and column; a still image (t = 1) becomes `steps` frames.

    As in the public code, the first third of the frequencies turns with time and the rest
    alternately with y and x, and the three lists all start at the first pair of channels.
    """
    *_, height, width, channels = x.shape
    f = rotary_frequencies(channels)
    third = f.size // 3
    time = jnp.pad(f[:third], (0, f.size - third))
    space = _spatial_angles(height, width, f.size, f[third:])
    return _rotate_frames(x, _temporal_angles(steps, time) + space[None], steps)


def _rotate_frames(x: Array, angles: Array, steps: int) -> Array:
    shape = (x.shape[0], steps, *x.shape[2:])
    angles = jnp.broadcast_to(angles, (*shape[:-1], angles.shape[-1]))
    return rotate_pairs(jnp.broadcast_to(x, shape), angles)


def time_code(steps: int, channels: int) -> Float[Array, "t c"]:
    """Returns sin and cos of t times the rotary frequencies, interleaved."""
    angles = jnp.outer(jnp.arange(steps), rotary_frequencies(channels))
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1).reshape(steps, channels)
