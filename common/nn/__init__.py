"""Layers that more than one package uses."""

from common.nn.activations import ACTIVATIONS
from common.nn.attention import (
    DotProductAttention,
    attend,
    attention_weights,
    average_values,
)
from common.nn.dense import Dense
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
    "ACTIVATIONS",
    "Dense",
    "DotProductAttention",
    "LayerNorm",
    "LearnedMap",
    "LearnedTime",
    "NoEmbedding",
    "Rotary",
    "SinusoidalTime",
    "attend",
    "attention_weights",
    "average_values",
    "no_rotation",
    "rotate_interleaved",
    "rotate_space",
    "rotate_spacetime",
    "rotate_time",
    "time_code",
]
