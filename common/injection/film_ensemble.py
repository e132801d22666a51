"""An ensemble whose members differ in nothing but how they modulate: M predictions in one batch.

Source: Turkoglu et al. 2022, "FiLM-Ensemble: Probabilistic deep learning via feature-wise linear
modulation", section 3. The members' copies of the batch lie one after the other on the first axis,
member by member, so that all other layers see one larger batch and need not know of members.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from common.array_types import Array, Float
from common.injection.film import FiLMGenerator
from common.kernels import film


class FiLMEnsemble(nn.Module):
    """y_m = gamma_m(z) * x_m + beta_m(z), with a generator of its own for each member m.

    Members that begin alike and see the same data stay alike: give the generator a `bias_init`
    that is not zero. Its scale is the paper's rho, by which the diversity of members is set.

    Attributes:
        members: M.
        generator: the generator that each member has a copy of, with its own parameters.
    """

    members: int
    generator: FiLMGenerator

    @nn.compact
    def __call__(
        self, x: Float[Array, "mb *t c"], condition: Float[Array, "b e"]
    ) -> Float[Array, "mb *t c"]:
        """Modulates each member's part of the batch.

        Args:
            x: features of all members, as `for_members` lays them out.
            condition: the same for all members.

        Raises:
            ValueError: x does not hold one part as long as the condition for each member.
        """
        if x.shape[0] != self.members * condition.shape[0]:
            raise ValueError(
                f"a batch of {x.shape[0]}; expected {self.members} members of {condition.shape[0]}"
            )
        each = nn.vmap(
            lambda module, _: module(condition),
            variable_axes={"params": 0},
            split_rngs={"params": True},
        )
        gamma, beta = each(self.generator, jnp.arange(self.members))
        self.sow("intermediates", "input", x)
        self.sow("intermediates", "gamma", gamma)
        self.sow("intermediates", "beta", beta)
        parts = by_member(x, self.members)
        return film(parts, gamma, beta).reshape(x.shape)


def for_members(x: Float[Array, "b *t"], members: int) -> Float[Array, "mb *t"]:
    """Copies a batch for each member, one copy after the other."""
    return jnp.tile(x, (members, *(1,) * (x.ndim - 1)))


def by_member(x: Float[Array, "mb *t"], members: int) -> Float[Array, "m b *t"]:
    """Returns what each member made of the batch.

    Raises:
        ValueError: the batch does not divide into the members.
    """
    if x.shape[0] % members:
        raise ValueError(f"a batch of {x.shape[0]} does not divide into {members} members")
    return x.reshape(members, x.shape[0] // members, *x.shape[1:])


class EnsemblePrediction(struct.PyTreeNode):
    """What an ensemble says of each example, and how sure it is.

    Attributes:
        mean: probability of each class, averaged over the members.
        variance: of each class's probability over the members.
        disagreement: share of the pairs of members whose likeliest classes differ; 0 for one.
        mutual_information: entropy of the mean less the mean entropy, in nats: the part of the
            uncertainty that comes from the members being different (epistemic).
    """

    mean: Float[Array, "*b k"]
    variance: Float[Array, "*b k"]
    disagreement: Float[Array, "*b"]
    mutual_information: Float[Array, "*b"]


def ensemble_prediction(logits: Float[Array, "m *b k"]) -> EnsemblePrediction:
    """Combines the logits of the members, which lie on the first axis (`by_member`)."""
    members, *_, classes = logits.shape
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    p = jnp.exp(log_p)
    mean = p.mean(axis=0)
    votes = jax.nn.one_hot(logits.argmax(-1), classes).sum(axis=0)
    pairs = max(members * (members - 1), 1)
    same = (votes * (votes - 1)).sum(-1)
    entropy = -(p * log_p).sum(-1).mean(axis=0)
    return EnsemblePrediction(
        mean=mean,
        variance=p.var(axis=0),
        disagreement=jnp.where(members > 1, 1.0 - same / pairs, 0.0),
        mutual_information=jax.scipy.special.entr(mean).sum(-1) - entropy,
    )
