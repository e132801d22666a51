"""How surprising a text is to an encoder with a head for masked words.

    log PPPL(x) = - 1/n sum_i log p(x_i | x without x_i)

over the n tokens of an example that count, each masked in turn. Source: Salazar et al. 2020,
"Masked Language Model Scoring", section 2, for a corpus of one example.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from alcnet.encoder import Encoder
from alcnet.word_head import WordHead
from common.array_types import Array, Float, Int, PyTree

PERPLEXITY = "log pseudo-perplexity"
"""Name of the statistic."""


@dataclasses.dataclass(frozen=True)
class PseudoPerplexity:
    """Computes the log pseudo-perplexity of examples.

    Attributes:
        encoder: gives hidden states.
        head: gives logits of words from them.
        mask_id: id of the token that hides a word.
        special_ids: ids that do not count, such as those of CLS, SEP and padding.
        places: places that are masked at the same time, each in a copy of the batch; bounds the
            memory, and changes nothing else.
    """

    encoder: Encoder
    head: WordHead
    mask_id: int
    special_ids: tuple[int, ...] = ()
    places: int = 8

    def __call__(
        self,
        encoder_variables: PyTree,
        head_variables: PyTree,
        input_ids: Int[Array, "b s"],
        attention_mask: Int[Array, "b s"],
        token_type_ids: Int[Array, "b s"],
    ) -> Float[Array, "b"]:
        """Returns the mean over the tokens that count of -log p(token | all others), nats.

        Args:
            encoder_variables: of the encoder.
            head_variables: of the head.
            input_ids: tokens.
            attention_mask: 1 where a token is real; padding neither counts nor is seen.
            token_type_ids: as for `Encoder`.

        Returns:
            One float32 for each example; 0 where no token counts.
        """
        ids, mask = jnp.asarray(input_ids), jnp.asarray(attention_mask)
        counted = mask != 0
        for special in self.special_ids:
            counted = counted & (ids != special)

        def log_probability(place: Int[Array, ""]) -> Float[Array, "b"]:
            """Returns log p of each example's token at one place, given all others."""
            hidden = ids.at[:, place].set(self.mask_id)
            out: Any = self.encoder.apply(encoder_variables, hidden, mask, token_type_ids)
            logits: Any = self.head.apply(head_variables, out.last_hidden_state[:, place])
            log = jax.nn.log_softmax(logits.astype(jnp.float32))
            return jnp.take_along_axis(log, ids[:, place, None], 1)[:, 0]

        places = jnp.arange(ids.shape[1])
        log = jax.lax.map(log_probability, places, batch_size=self.places).T
        total = jnp.sum(jnp.where(counted, log, 0.0), 1)
        return -total / jnp.maximum(jnp.sum(counted, 1), 1).astype(jnp.float32)
