"""Attention maps as pictures of equal size: padding taken out, tokens joined to regions.

Examples have different numbers n of tokens. `Regions` are G equal stretches of the real tokens (or
of each of two sentences), and region g holds a share W[g, i] of token i, 0 for padding. A map A of
tokens becomes one of regions,

    P = N W A W',   N = diag(1 / row sums of W),

the mean over the queries of a region of the mass that lies on another: again a map whose rows add
up to 1, whatever n is, and without a trace of padding.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from common.array_types import Array, Bool, Float, Int

View = Callable[[Bool[Array, "b q s"]], Bool[Array, "b q s"]]
"""Chooses the places of a map that are seen, among those that are there."""


class Regions(NamedTuple):
    """How tokens are joined.

    Attributes:
        shares: of each token in each region, from 0 to 1; 0 for padding.
        exist: whether a region has any token; all have where each sentence has a token.
    """

    shares: Float[Array, "b g s"]
    exist: Bool[Array, "b g"]


def token_regions(mask: Int[Array, "b s"] | Bool[Array, "b s"], types: Int[Array, "b s"]):
    """Returns a region for every token: maps stay as they are, padding does not exist."""
    del types
    real = mask != 0
    eye = jnp.broadcast_to(jnp.eye(mask.shape[1])[None], (mask.shape[0], *2 * mask.shape[1:]))
    return Regions(eye * real[:, None, :], real)


class EqualRegions(NamedTuple):
    """All real tokens in `count` stretches of equal length.

    Attributes:
        count: number of regions.
    """

    count: int

    def __call__(self, mask: Int[Array, "b s"], types: Int[Array, "b s"]) -> Regions:
        """Returns the regions of examples with this mask."""
        del types
        return _regions(mask != 0, self.count)


class SentenceRegions(NamedTuple):
    """The tokens of type 0 and those of type 1, each in stretches of equal length.

    So the same place of the picture is sentence 1 looking at sentence 2 in every example.

    Attributes:
        first: number of regions of type 0.
        second: number of regions of type 1.
    """

    first: int
    second: int

    def __call__(self, mask: Int[Array, "b s"], types: Int[Array, "b s"]) -> Regions:
        """Returns the regions of examples with this mask and these types."""
        real = mask != 0
        parts = (
            _regions(real & (types == 0), self.first),
            _regions(real & (types == 1), self.second),
        )
        return Regions(*(jnp.concatenate(pair, 1) for pair in zip(*parts, strict=True)))


def _regions(chosen: Bool[Array, "b s"], count: int) -> Regions:
    """Cuts the chosen tokens, n of them, into stretches [g n / count, (g + 1) n / count]."""
    number = jnp.sum(chosen, 1).astype(jnp.float32)[:, None, None]
    place = (jnp.cumsum(chosen, 1) - 1).astype(jnp.float32)[:, None, :]
    edges = jnp.arange(count + 1, dtype=jnp.float32)[None, :, None] * number / count
    overlap = jnp.minimum(edges[:, 1:], place + 1.0) - jnp.maximum(edges[:, :-1], place)
    shares = jnp.maximum(overlap, 0.0) * chosen[:, None, :]
    return Regions(shares, jnp.broadcast_to(number[:, :, 0] > 0, shares.shape[:2]))


def pool_maps(maps: Float[Array, "b heads s s"], regions: Regions) -> Float[Array, "b g g heads"]:
    """Returns maps of regions from those of tokens, heads as channels; 0 where a region has none.

    With one region for every token this is the map itself without its padding.
    """
    shares = regions.shares
    total = jnp.sum(shares, 2, keepdims=True)
    means = shares / jnp.where(total > 0, total, 1.0)
    columns = jnp.einsum("bhqs,bgs->bhqg", maps.astype(jnp.float32), shares)
    return jnp.einsum("bpq,bhqg->bpgh", means, columns)


def pair_mask(exist: Bool[Array, "b g"]) -> Bool[Array, "b g g"]:
    """Returns where both the query and the key exist."""
    return exist[:, :, None] & exist[:, None, :]


def all_seen(mask: Bool[Array, "b q s"]) -> Bool[Array, "b q s"]:
    """Returns the mask as it is."""
    return mask


class TopLeft(NamedTuple):
    """Only queries and keys in the first part of the regions are seen.

    Attributes:
        share: of queries and of keys, above 0, up to 1.
    """

    share: float

    def __call__(self, mask: Bool[Array, "b q s"]) -> Bool[Array, "b q s"]:
        """Returns the mask without what lies outside of the patch."""
        inside = [jnp.arange(n) < max(1, round(self.share * n)) for n in mask.shape[1:]]
        return mask & inside[0][None, :, None] & inside[1][None, None, :]


def standardise(
    maps: Float[Array, "b layers q s heads"], mask: Bool[Array, "b q s"]
) -> Float[Array, "b layers q s heads"]:
    """Gives each map of each head mean 0 and variance 1 over the places of the mask, 0 elsewhere.

    A map that does not vary there becomes 0.
    """
    inside = mask[:, None, :, :, None].astype(jnp.float32)
    count = jnp.maximum(jnp.sum(inside, (2, 3), keepdims=True), 1.0)
    mean = jnp.sum(maps * inside, (2, 3), keepdims=True) / count
    centred = (maps - mean) * inside
    variance = jnp.sum(centred**2, (2, 3), keepdims=True) / count
    return centred / jnp.sqrt(variance + 1e-8)
