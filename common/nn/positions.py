"""Rotary position codes over time and space, and the sinusoidal code of time.

A rotary code turns channel pair j of the cell (t, y, x) by the angle

    theta_j = t time_j + y row_j + x column_j .

The three parts of the angle add up, so a code is its three lists of frequencies, and its turn in
time is uniform in space: it commutes with every linear map that acts on space alone, such as the
FFT. Source of the lists: drewlinsley/CSSM, January to May 2026.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from common.array_types import Array, Float, Inexact, Time


class Turns(NamedTuple):
    """Angular frequencies of every channel pair, radians a step; None where nothing turns.

    Attributes:
        time: with the frame.
        row: with the row.
        column: with the column.
    """

    time: Float[Array, "j"] | None = None
    row: Float[Array, "j"] | None = None
    column: Float[Array, "j"] | None = None


@dataclasses.dataclass(frozen=True)
class Rotary:
    """A rotary position code, to be applied at once or first in space and then in time.

    Attributes:
        turns: frequencies of the pairs from the c / 2 rotary frequencies.
    """

    turns: Callable[[Float[Array, "j"]], Turns]

    def __call__(
        self, x: Float[Array, "b t h w c"], steps: int, start: Time = 0
    ) -> Float[Array, "b t h w c"]:
        """Turns x; a still image (t = 1) becomes `steps` frames if the code turns with time.

        Args:
            x: maps.
            steps: number of frames.
            start: time of the first one; may be traced.

        Raises:
            ValueError: an odd number of channels.
        """
        *_, height, width, channels = x.shape
        turns = self.turns(rotary_frequencies(channels))
        return _turned(
            x, _temporal_angles(turns, steps, start), _spatial_angles(turns, height, width)
        )

    def in_space(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """Turns x by row and column alone."""
        *_, height, width, channels = x.shape
        turns = self.turns(rotary_frequencies(channels))
        return _turned(x, None, _spatial_angles(turns, height, width))

    def in_time(
        self, x: Inexact[Array, "b t h w c"], steps: int, start: Time = 0
    ) -> Inexact[Array, "b t h w c"]:
        """Turns x by frame alone; x may be the spectra of maps that were turned in space."""
        turns = self.turns(rotary_frequencies(x.shape[-1]))
        return _turned(x, _temporal_angles(turns, steps, start), None)


def rotary_frequencies(channels: int) -> Float[Array, "j"]:
    """Returns the angular frequencies 10000^(-2j / c) of the c / 2 pairs of channels."""
    if channels % 2:
        raise ValueError(f"rotary positions need an even number of channels; got {channels}")
    return 10000.0 ** (-jnp.arange(0, channels, 2) / channels)


def rotate_pairs(
    x: Inexact[Array, "*b c"], angles: Float[Array, "*b c//2"]
) -> Inexact[Array, "*b c"]:
    """Rotates channel pairs (2j, 2j + 1) by `angles`, radians."""
    even, odd = x[..., 0::2], x[..., 1::2]
    dtype = x.real.dtype
    cos, sin = jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype)
    rotated = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return rotated.reshape(x.shape)


def _temporal_angles(turns: Turns, steps: int, start: Time) -> Float[Array, "t 1 1 j"] | None:
    if turns.time is None:
        return None
    return jnp.outer(start + jnp.arange(steps), turns.time)[:, None, None]


def _spatial_angles(turns: Turns, height: int, width: int) -> Float[Array, "h w j"] | None:
    if turns.row is None or turns.column is None:
        return None
    y = jnp.outer(jnp.arange(height), turns.row)
    x = jnp.outer(jnp.arange(width), turns.column)
    return y[:, None] + x[None]


def _turned(x: Array, temporal: Array | None, spatial: Array | None) -> Array:
    if temporal is None:
        if spatial is None:
            return x
        return rotate_pairs(x, jnp.broadcast_to(spatial, (*x.shape[:-1], x.shape[-1] // 2)))
    angles = temporal if spatial is None else temporal + spatial[None]
    shape = (x.shape[0], angles.shape[0], *x.shape[2:])
    angles = jnp.broadcast_to(angles, (*shape[:-1], angles.shape[-1]))
    return rotate_pairs(jnp.broadcast_to(x, shape), angles)


def _filled(frequencies: Array, pairs: int) -> Array:
    return jnp.pad(frequencies, (0, pairs - frequencies.size))


def _no_turns(f: Array) -> Turns:
    del f
    return Turns()


def _temporal(f: Array) -> Turns:
    return Turns(time=f)


def _spatial(f: Array) -> Turns:
    return Turns(row=_filled(f[0::2], f.size), column=_filled(f[1::2], f.size))


def _spatiotemporal(f: Array) -> Turns:
    third = f.size // 3
    time, row, column = f[:third], f[third::2], f[third + 1 :: 2]
    return Turns(*(_filled(part, f.size) for part in (time, row, column)))


def _interleaved(f: Array) -> Turns:
    third = f.size // 3
    parts = f[:third], f[third : 2 * third], f[2 * third :]
    zeros = jnp.zeros_like(f)
    time, row, column = (
        zeros.at[axis : 3 * third : 3].set(part[:third]) for axis, part in enumerate(parts)
    )
    return Turns(time, row, column.at[3 * third :].set(parts[2][third:]))


no_rotation = Rotary(_no_turns)
"""Leaves x as it is."""

rotate_time = Rotary(_temporal)
"""Every pair turns with time, by its own frequency."""

rotate_space = Rotary(_spatial)
"""Even frequencies turn with the row, odd ones with the column; both lists begin at pair 0."""

rotate_spacetime = Rotary(_spatiotemporal)
"""The first third of the frequencies turns with time, the rest alternately with row and column.

As in the public code the three lists all begin at pair 0, and the last pairs do not turn.
"""

rotate_interleaved = Rotary(_interleaved)
"""Each pair turns with one axis, in the order time, row, column, time, ...: the public 'mrope'.

The frequencies go to the axes by thirds, and the pairs that are left over turn with the column.
"""


def time_code(steps: int, channels: int, start: Time = 0) -> Float[Array, "t c"]:
    """Returns sin and cos of t times the rotary frequencies, interleaved.

    Args:
        steps: number of times.
        channels: width of the code.
        start: first time; may be traced.
    """
    angles = jnp.outer(start + jnp.arange(steps), rotary_frequencies(channels))
    return jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1).reshape(steps, channels)
