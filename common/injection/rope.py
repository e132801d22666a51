"""Rotary positions as Llama has them: channel j turns with channel j + d/2.

Sources: Su et al. 2021, "RoFormer", equation 15; for longer contexts the scaling of Llama 3.1
(Dubey et al. 2024, "The Llama 3 herd of models"; public rope type 'llama3').
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from common.array_types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """Slows the slow frequencies down by a factor, leaves the fast ones, and blends in between.

    Attributes:
        factor: by which wavelengths beyond `original / low` grow.
        low: the longest unscaled wavelength is `original / low` ...
        high: ... and from `original / high` on they begin to grow.
        original: length of the context that the model was trained with first.
    """

    factor: float
    low: float
    high: float
    original: int

    def __call__(self, frequencies: np.ndarray) -> np.ndarray:
        """Returns the scaled frequencies, radians a step."""
        turns = self.original * frequencies / (2 * np.pi)
        share = np.clip((turns - self.low) / (self.high - self.low), 0.0, 1.0)
        return (1.0 - share) * frequencies / self.factor + share * frequencies


@dataclasses.dataclass(frozen=True)
class HalfRotation:
    """Turns channels j and j + d/2 of place t by the angle t theta^(-2j / d).

    Attributes:
        theta: base of the frequencies.
        scaling: of the frequencies; None leaves them.
    """

    theta: float = 500_000.0
    scaling: Llama3Scaling | None = None

    def frequencies(self, width: int) -> np.ndarray:
        """Returns the d/2 frequencies, radians a step.

        Raises:
            ValueError: an odd number of channels.
        """
        if width % 2:
            raise ValueError(f"rotary positions need an even number of channels; got {width}")
        frequencies = self.theta ** (-np.arange(0, width, 2) / width)
        return frequencies if self.scaling is None else self.scaling(frequencies)

    def __call__(
        self, x: Float[Array, "b t heads d"], places: Int[Array, "b t"]
    ) -> Float[Array, "b t heads d"]:
        """Turns queries or keys."""
        frequencies = jnp.asarray(self.frequencies(x.shape[-1]), jnp.float32)
        angles = places[..., None, None] * frequencies[None, None, None]
        cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
        first, second = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
