"""Several pathways over the same features, each modulated by one vector that conditions all.

The notes' 'ways of knowing': N pathways (nine there), one conditioning 'fingerprint', N sets of
gamma and beta, one output.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.injection.film import FiLM


class SamePath(nn.Module):
    """The pathway that leaves the features as they are."""

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Returns x."""
        return x


class PathwayFiLM(nn.Module):
    """y = sum_n w_n(z) (gamma_n(z) * path_n(x) + beta_n(z)), w = softmax(W z + b).

    W and b are zero at the start: all pathways count alike. With one pathway w is 1, and
    this is `FiLM` of that pathway. The shares are sown as 'path_shares'.

    Attributes:
        paths: map x to features of one shape.
        films: one for each pathway.
    """

    paths: tuple[nn.Module, ...]
    films: tuple[FiLM, ...]

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: there is no pathway, or not one FiLM for each.
        """
        super().__post_init__()
        if not self.paths or len(self.paths) != len(self.films):
            raise ValueError(f"{len(self.paths)} pathways and {len(self.films)} FiLM layers")

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *t c"], condition: Float[Array, "b e"]
    ) -> Float[Array, "b *t c"]:
        """Returns the mixture of the modulated pathways.

        Args:
            x: features.
            condition: the vector that all pathways are conditioned on.
        """
        zeros = nn.initializers.zeros
        logits = nn.Dense(len(self.paths), kernel_init=zeros, name="shares", dtype=jnp.float32)
        shares = jax.nn.softmax(logits(condition))
        self.sow("intermediates", "path_shares", shares)
        outputs = [
            film(path(x), condition) for path, film in zip(self.paths, self.films, strict=True)
        ]
        stacked = jnp.stack(outputs, axis=1)
        return jnp.einsum("bn,bn...->b...", shares.astype(stacked.dtype), stacked)
