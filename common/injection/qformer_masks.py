"""Who may see whom among queries and text tokens: the three masks of BLIP-2's objectives.

Every mask is (b, 1, n, n), n = q + t with the queries first, and True where a row may see a column.
Padding is seen by nobody but itself. Source: Li et al. 2023, "BLIP-2", figure 2 and section 3.2.
"""

import jax.numpy as jnp

from common.array_types import Array, Bool, Int

Real = Bool[Array, "b t"] | Int[Array, "b t"]


def separate_mask(queries: int, real: Real) -> Bool[Array, "b 1 n n"]:
    """Queries see queries, text sees text: contrastive learning, where neither may know the other.

    Args:
        queries: number of queries.
        real: 1 where a text token is real, 0 where it is padding.
    """
    is_text = _is_text(queries, real)
    return _with_padding(is_text[:, None] == is_text[None], queries, real)


def bidirectional_mask(queries: int, real: Real) -> Bool[Array, "b 1 n n"]:
    """All see all: matching; arguments as for `separate_mask`."""
    is_text = _is_text(queries, real)
    return _with_padding(jnp.ones((is_text.size, is_text.size), bool), queries, real)


def causal_multimodal_mask(queries: int, real: Real) -> Bool[Array, "b 1 n n"]:
    """Queries see queries, text sees queries and the text before it: generation.

    What the text says of the image comes through the queries alone. Arguments as for
    `separate_mask`.
    """
    is_text = _is_text(queries, real)
    earlier = jnp.tri(is_text.size, dtype=bool)
    return _with_padding(~is_text[None] | (is_text[:, None] & earlier), queries, real)


def _is_text(queries: int, real: Array) -> Bool[Array, "n"]:
    return jnp.arange(queries + real.shape[1]) >= queries


def _with_padding(allowed: Bool[Array, "n n"], queries: int, real: Array) -> Bool[Array, "b 1 n n"]:
    """Hides padding from all but itself, so that no row is empty."""
    there = jnp.concatenate([jnp.ones((real.shape[0], queries), bool), jnp.asarray(real) != 0], 1)
    itself = jnp.eye(allowed.shape[0], dtype=bool)
    return ((allowed[None] & there[:, None]) | itself[None])[:, None]
