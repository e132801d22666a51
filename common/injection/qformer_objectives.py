"""The three objectives that BLIP-2 trains its Q-Former with, before a language model is joined.

    contrastive (ITC)  queries and text apart; similarity = the best query's, in-batch softmax
    matching (ITM)     queries and text together; is it the image's text? hard negatives
    generation (ITG)   the text token by token, seeing the image through the queries alone

Source: Li et al. 2023, "BLIP-2", section 3.2.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from common.array_types import Array, Bool, Float, Int, PRNGKey
from common.injection.qformer import INITIAL, QUERIES, QFormer, QFormerOutput, TextEmbedding
from common.injection.qformer_masks import (
    bidirectional_mask,
    causal_multimodal_mask,
    separate_mask,
)
from common.kernels import exact_gelu, largest
from common.nn import LayerNorm

TEMPERATURE = 0.07


class Similarity(struct.PyTreeNode):
    """How well images and texts of a batch fit, over the temperature.

    Attributes:
        image_to_text: row i: image i with every text.
        text_to_image: row i: text i with every image.
    """

    image_to_text: Float[Array, "b b"]
    text_to_image: Float[Array, "b b"]


class ObjectiveLosses(struct.PyTreeNode):
    """The three losses, in nats, and their sum.

    Attributes:
        contrastive: mean over both directions.
        matching: mean over pairs: b that fit, 2 b that do not.
        generation: mean over real tokens.
        total: their sum.
    """

    contrastive: Float[Array, ""]
    matching: Float[Array, ""]
    generation: Float[Array, ""]
    total: Float[Array, ""]


def similarity(
    images: Float[Array, "b q p"], texts: Float[Array, "b p"], temperature: Float[Array, ""] | float
) -> Similarity:
    """Compares unit vectors; of the queries of an image the best one counts for each text."""
    best = largest(jnp.einsum("iqp,jp->ijq", images, texts), (-1,)) / temperature
    return Similarity(best, best.T)


def contrastive_loss(similar: Similarity, smoothing: float = 0.0) -> Float[Array, ""]:
    """Cross-entropy of finding the own text of each image and the own image of each text.

    Args:
        similar: the pairs of the batch; image i belongs to text i.
        smoothing: share of the target that is spread over the batch; 0.1 in the public code.
    """
    target = jnp.eye(similar.image_to_text.shape[0]) * (1 - smoothing)
    target = target + smoothing / target.shape[0]
    rows = [
        -(target * jax.nn.log_softmax(x.astype(jnp.float32))).sum(-1).mean()
        for x in (similar.image_to_text, similar.text_to_image)
    ]
    return (rows[0] + rows[1]) / 2


def hard_negatives(similar: Similarity, key: PRNGKey) -> tuple[Int[Array, "b"], Int[Array, "b"]]:
    """Draws a wrong image for each text and a wrong text for each image, by their similarity.

    The more alike the likelier; no gradient passes. A batch of one has none: its own is drawn.
    """
    own = jnp.eye(similar.image_to_text.shape[0], dtype=bool)
    image_key, text_key = jax.random.split(key)

    def draw(key: PRNGKey, x: Array) -> Int[Array, "b"]:
        scores = jnp.where(own, -jnp.inf, jax.lax.stop_gradient(x)) if own.size > 1 else x
        return jax.random.categorical(key, scores)

    return draw(image_key, similar.text_to_image), draw(text_key, similar.image_to_text)


def matching_loss(logits: Float[Array, "n 2"], fits: Int[Array, "n"]) -> Float[Array, ""]:
    """Mean cross-entropy of telling pairs that fit (1) from others (0)."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.take_along_axis(log_p, fits[:, None], axis=1).mean()


def generation_loss(
    logits: Float[Array, "b t v"], tokens: Int[Array, "b t"], real: Bool[Array, "b t"]
) -> Float[Array, ""]:
    """Mean cross-entropy of each real token after the first, from the logits one place before."""
    log_p = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))
    found = jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=2)[..., 0]
    counted = real[:, 1:].astype(jnp.float32)
    return -(found * counted).sum() / jnp.maximum(counted.sum(), 1.0)


class QFormerPretraining(nn.Module):
    """A Q-Former that takes text, with the heads of the three objectives.

    Attributes:
        qformer: takes text (`qformer(..., text=True)`).
        text: embeds tokens; the head of generation is tied to it.
        start: token that stands for the first one where text is generated, [DEC] in BLIP-2.
        queries: number of learned queries.
        shared: width p of the space where images and texts are compared; 256 in BLIP-2.
        smoothing: of the contrastive targets.
    """

    qformer: QFormer
    text: TextEmbedding
    start: int
    queries: int = QUERIES
    shared: int = 256
    smoothing: float = 0.0

    def setup(self) -> None:
        """Makes the queries and the heads."""
        width = self.text.width
        self.query_tokens = self.param("query_tokens", INITIAL, (1, self.queries, width))
        self.image_head, self.text_head = nn.Dense(self.shared), nn.Dense(self.shared)
        self.matching_head = nn.Dense(2)
        self.log_temperature = self.param(
            "log_temperature", nn.initializers.constant(jnp.log(TEMPERATURE)), ()
        )
        self.word_dense, self.word_norm = nn.Dense(width), LayerNorm(epsilon=1e-12)
        self.word_bias = self.param("word_bias", nn.initializers.zeros, (self.text.vocabulary,))

    def __call__(
        self,
        features: Float[Array, "b s e"],
        tokens: Int[Array, "b t"],
        real: Bool[Array, "b t"] | Int[Array, "b t"],
        key: PRNGKey,
    ) -> ObjectiveLosses:
        """Returns the losses of a batch of images and their texts.

        Args:
            features: of the images.
            tokens: of the texts, the first one [CLS].
            real: 1 where a token is no padding.
            key: draws the negatives.
        """
        similar = self.similarity(features, tokens, real)
        wrong_image, wrong_text = hard_negatives(similar, key)
        logits = self.match(
            jnp.concatenate([features, jnp.take(features, wrong_image, axis=0), features]),
            jnp.concatenate([tokens, tokens, jnp.take(tokens, wrong_text, axis=0)]),
            jnp.concatenate([real, real, jnp.take(real, wrong_text, axis=0)]),
        )
        fits = (jnp.arange(logits.shape[0]) < tokens.shape[0]).astype(jnp.int32)
        contrastive = contrastive_loss(similar, self.smoothing)
        matching = matching_loss(logits, fits)
        generation = generation_loss(self.generate(features, tokens, real), tokens, real != 0)
        return ObjectiveLosses(
            contrastive, matching, generation, contrastive + matching + generation
        )

    def similarity(self, features: Array, tokens: Array, real: Array) -> Similarity:
        """Returns how well the images and texts of a batch fit; queries and text stay apart."""
        out = self._run(features, tokens, separate_mask(self.queries, real)).last_hidden_state
        images = _unit(self.image_head(out[:, : self.queries]))
        texts = _unit(self.text_head(out[:, self.queries]))
        return similarity(images, texts, jnp.exp(self.log_temperature))

    def match(self, features: Array, tokens: Array, real: Array) -> Float[Array, "b 2"]:
        """Returns logits of not fitting and fitting, averaged over the queries."""
        out = self._run(features, tokens, bidirectional_mask(self.queries, real))
        return self.matching_head(out.last_hidden_state[:, : self.queries]).mean(axis=1)

    def generate(self, features: Array, tokens: Array, real: Array) -> Float[Array, "b t v"]:
        """Returns logits of the token after each; `start` stands for the first."""
        tokens = jnp.asarray(tokens).at[:, 0].set(self.start)
        out = self._run(features, tokens, causal_multimodal_mask(self.queries, real))
        words = self.word_norm(
            exact_gelu(self.word_dense(out.last_hidden_state[:, self.queries :]))
        )
        return self.text.logits(words) + self.word_bias[None, None]

    def _run(self, features: Array, tokens: Array, mask: Array) -> QFormerOutput:
        return self.qformer(self.query_tokens, features, text=self.text(tokens), mask=mask)


def _unit(x: Float[Array, "*b p"]) -> Float[Array, "*b p"]:
    """Returns vectors of length 1."""
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
