"""Layers that more than one package uses."""

from common.nn.embeddings import LearnedMap, LearnedTime, NoEmbedding, SinusoidalTime
from common.nn.norms import LayerNorm
from common.nn.positions import (
    Rotary,
    no_rotation,
    rotate_interleaved,
    rotate_space,
    rotate_spacetime,
    rotate_time,
    time_code,
)

__all__ = [
    "LayerNorm",
    "LearnedMap",
    "LearnedTime",
    "NoEmbedding",
    "Rotary",
    "SinusoidalTime",
    "no_rotation",
    "rotate_interleaved",
    "rotate_space",
    "rotate_spacetime",
    "rotate_time",
    "time_code",
]
