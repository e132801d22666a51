"""Layers that more than one package uses."""

from common.nn.positions import (
    Rotary,
    no_rotation,
    rotate_space,
    rotate_spacetime,
    rotate_time,
    time_code,
)

__all__ = [
    "Rotary",
    "no_rotation",
    "rotate_space",
    "rotate_spacetime",
    "rotate_time",
    "time_code",
]
