"""From the features of the branches to logits."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from alcnet.dropout import Dropout
from common.array_types import Array, Float

Features = Mapping[str, Float[Array, "b d"]]
"""Features by branch: 'cls', 'cnn', 'stats', as far as there are such branches."""


class ConcatFusion(nn.Module):
    """One linear map of the features of all branches beside each other (the seed's head).

    Attributes:
        classes: number of logits.
        branches: which features are read, in order.
        dropout: rate of the features.
    """

    classes: int
    branches: tuple[str, ...] = ("cls", "cnn", "stats")
    dropout: float = 0.0

    @nn.compact
    def __call__(self, features: Features, deterministic: bool) -> Float[Array, "b k"]:
        """Returns the logits in float32."""
        x = _joined(features, self.branches)
        x = Dropout(self.dropout)(x, deterministic)
        return nn.Dense(self.classes, kernel_init=nn.initializers.normal(0.02), name="logits")(x)


class GatedFusion(nn.Module):
    """A gate between the logits of the pooled states and those of what reads attention.

        g = sigmoid(w [cnn; stats] - 2),   logits = (1 - g) v(cls) + g c([cnn; stats])

    The gate is nearly closed at initialisation, .12. Source: the public ALCNet.

    Attributes:
        classes: number of logits.
        direct: branches that v reads.
        reading: branches that c and the gate read.
        dropout: rate of the features.
    """

    classes: int
    direct: tuple[str, ...] = ("cls",)
    reading: tuple[str, ...] = ("cnn", "stats")
    dropout: float = 0.0

    @nn.compact
    def __call__(self, features: Features, deterministic: bool) -> Float[Array, "b k"]:
        """Returns the logits in float32; the gate (b, 1) is sown as 'openness'."""
        direct, reading = _joined(features, self.direct), _joined(features, self.reading)
        gate = nn.Dense(1, bias_init=nn.initializers.constant(-2.0), name="gate")(reading)
        gate = jax.nn.sigmoid(gate)
        self.sow("intermediates", "openness", gate)
        v = _logits(self.classes, "direct")(Dropout(self.dropout)(direct, deterministic))
        c = _logits(self.classes, "read")(Dropout(self.dropout)(reading, deterministic))
        return (1.0 - gate) * v + gate * c


def _joined(features: Features, branches: tuple[str, ...]) -> Array:
    missing = [name for name in branches if name not in features]
    if missing or not branches:
        there = ", ".join(features) or "none"
        raise ValueError(f"fusion reads {', '.join(missing) or 'no branch'}; there are: {there}")
    return jnp.concatenate([features[name].astype(jnp.float32) for name in branches], -1)


def _logits(classes: int, name: str) -> Any:
    return nn.Dense(classes, kernel_init=nn.initializers.normal(0.02), name=name)
