"""Feature-wise linear modulation of features by a conditioning vector.

Source: Perez et al. 2018, "FiLM: Visual reasoning with a general conditioning layer", section 2.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.kernels import film, film_parameters


class FiLMGenerator(nn.Module):
    """(gamma - 1, beta) = W h + b, where h is the condition or what hidden layers make of it.

    W and b are zero at the start, so that the modulation is the identity. Deviation from the paper:
    gamma is generated as a difference from 1, as in its public code.

    Attributes:
        channels: number of channels that are modulated.
        hidden: widths of the hidden layers, each with relu; none is a linear generator.
        kernel_init: makes W.
        bias_init: makes b; members of an ensemble begin apart if this does not give zeros.
        dtype: compute dtype of the hidden layers; gamma and beta are float32.
    """

    channels: int
    hidden: tuple[int, ...] = ()
    kernel_init: nn.initializers.Initializer = nn.initializers.zeros
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, condition: Float[Array, "*s e"]
    ) -> tuple[Float[Array, "*s c"], Float[Array, "*s c"]]:
        """Returns gamma and beta."""
        h = condition
        for number, width in enumerate(self.hidden):
            h = jax.nn.relu(nn.Dense(width, dtype=self.dtype, name=f"hidden_{number}")(h))
        last = nn.Dense(
            2 * self.channels,
            dtype=jnp.float32,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            name="last",
        )
        return film_parameters(last(h))


class FiLM(nn.Module):
    """y = gamma(z) * x + beta(z) over the channels of x, for a condition z.

    x, gamma and beta are sown as 'input', 'gamma' and 'beta' where a caller captures intermediates.

    Attributes:
        generator: gives gamma and beta from z, such as a `FiLMGenerator`.
    """

    generator: nn.Module

    def __call__(
        self, x: Float[Array, "*b c"], condition: Float[Array, "*s e"]
    ) -> Float[Array, "*b c"]:
        """Modulates x.

        Args:
            x: features, channels last.
            condition: its axes before the last are the first ones of x: (b, e) conditions every
                place of an example of (b, t, c) or (b, h, w, c) alike.
        """
        gamma, beta = self.generator(condition)
        self.sow("intermediates", "input", x)
        self.sow("intermediates", "gamma", gamma)
        self.sow("intermediates", "beta", beta)
        return film(x, gamma, beta)


class PooledFiLM(nn.Module):
    """x is modulated by the mean of a set of features: FiLM as a mechanism of an `Injector`.

    Attributes:
        film: modulates.
    """

    film: FiLM

    def __call__(
        self, x: Float[Array, "b *t c"], features: Float[Array, "b s e"]
    ) -> Float[Array, "b *t c"]:
        """Modulates all places of an example by the mean of its features."""
        return self.film(x, features.mean(axis=1))
