"""Activation functions by the names that public checkpoints have for them."""

from collections.abc import Callable

import jax

from common.array_types import Array
from common.kernels import exact_gelu

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": exact_gelu,
    "gelu_new": jax.nn.gelu,
    "gelu_pytorch_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}
"""Values of 'hidden_act' in the config.json of a Hugging Face folder."""
