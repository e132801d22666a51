"""Attention whose scores are a sum of terms with projections of their own, as in DeBERTa.

Text token i scores text token j and image token s by

    text:    (q_i k_j + q_i kr_{i-j} + qr_{j-i} k_j) / sqrt(3 d)       r: relative positions
    vision:  qv_i kv_s / sqrt(d)

and takes one softmax over both. The three text terms are content to content, content to position
and position to content (He et al. 2021, "DeBERTa", section 3.1); the term of text to vision has
queries, keys and values of its own, so that seeing does not share weights with reading.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Bool, Float
from common.injection.attention import broadcast_gate, from_heads, to_heads
from common.nn.attention import HIDDEN, average_values


class ScoreTerms(NamedTuple):
    """The scores before softmax; the first three add up.

    Attributes:
        content: content to content.
        content_position: content of the query to the position of the key.
        position_content: position of the query to the content of the key.
        vision: text to image tokens.
    """

    content: Float[Array, "b heads t t"]
    content_position: Float[Array, "b heads t t"]
    position_content: Float[Array, "b heads t t"]
    vision: Float[Array, "b heads t s"]


class DisentangledAttention(nn.Module):
    """Attention of a text to its past and to an image by the scores above, without biases.

    The weights over [text, vision] are sown as 'weights', the terms as 'terms'.

    Attributes:
        heads: number of heads, which divides the width.
        span: relative positions are told apart up to this distance, and one beyond.
        dtype: compute dtype; scores are in float32 at least, parameters are float32.
    """

    heads: int
    span: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t c"],
        vision: Float[Array, "b s e"],
        visible: Bool[Array, "b t s"] | None = None,
        readable: Bool[Array, "b #t t"] | None = None,
    ) -> Float[Array, "b t c"]:
        """Returns what each token gathers.

        Args:
            x: text; a token sees itself and those before it.
            vision: image tokens.
            visible: which of them a text token may see; all by default.
            readable: which tokens of the text up to itself a token may see; all by default.

        Raises:
            ValueError: the width does not divide into the heads.
        """
        length, width = x.shape[1:]
        if width % self.heads:
            raise ValueError(f"{width} channels do not divide into {self.heads} heads")
        terms = self._terms(x, vision)
        for name, term in terms._asdict().items():
            self.sow("intermediates", name, term)
        text = terms.content + terms.content_position + terms.position_content
        read = jnp.tri(length, dtype=bool)[None]
        if readable is not None:
            read = read & readable
        text = jnp.where(read[:, None], text, HIDDEN)
        seen = terms.vision
        if visible is not None:
            seen = jnp.where(visible[:, None], seen, HIDDEN)
        weights = jax.nn.softmax(jnp.concatenate([text, seen], axis=-1))
        self.sow("intermediates", "weights", weights)
        values = [self._heads("value", x, width), self._heads("vision_value", vision, width)]
        out = average_values(weights, jnp.concatenate(values, axis=1))
        return from_heads(out, width, self.dtype)

    def _terms(self, x: Array, vision: Array) -> ScoreTerms:
        """Returns the scores, term by term."""
        length, width = x.shape[1:]
        d = width // self.heads
        shape = (self.span + 1, width)
        table = self.param("positions", nn.initializers.normal(0.02), shape)[None]
        query, key = self._heads("query", x, width), self._heads("key", x, width)
        position_query = self._heads("position_query", table, width)[0]
        position_key = self._heads("position_key", table, width)[0]
        ago = jnp.arange(length)[:, None] - jnp.arange(length)[None]
        ago = jnp.clip(ago, 0, self.span)  # what comes later is masked anyway
        wide = jnp.promote_types(self.dtype, jnp.float32)
        scores = {
            "content": jnp.einsum("bihd,bjhd->bhij", query, key, preferred_element_type=wide),
            "content_position": jnp.einsum(
                "bihd,ijhd->bhij", query, position_key[ago], preferred_element_type=wide
            ),
            "position_content": jnp.einsum(
                "ijhd,bjhd->bhij", position_query[ago], key, preferred_element_type=wide
            ),
        }
        seen = jnp.einsum(
            "bihd,bshd->bhis",
            self._heads("vision_query", x, width),
            self._heads("vision_key", vision, width),
            preferred_element_type=wide,
        )
        return ScoreTerms(
            **{n: s * (3 * d) ** -0.5 for n, s in scores.items()}, vision=seen * d**-0.5
        )

    def _heads(self, name: str, x: Array, width: int) -> Float[Array, "b s heads d"]:
        """Projects to a width and splits the channels into heads."""
        return to_heads(name, x, self.heads, width // self.heads, self.dtype)


class DisentangledLayer(nn.Module):
    """x += tanh(a) attention(norm(x), vision), a = 0 at the start: a mechanism for an `Injector`.

    Attributes:
        attention: as above.
        dtype: of the norm.
    """

    attention: DisentangledAttention
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t c"],
        vision: Float[Array, "b s e"],
        visible: Bool[Array, "b t s"] | None = None,
        readable: Bool[Array, "b #t t"] | None = None,
    ) -> Float[Array, "b t c"]:
        """Returns the text with what it read and saw; arguments as for `DisentangledAttention`."""
        gate = self.param("gate", nn.initializers.zeros, (1,))
        normed = nn.RMSNorm(dtype=self.dtype, name="norm")(x)
        return x + broadcast_gate(gate, x) * self.attention(normed, vision, visible, readable)
