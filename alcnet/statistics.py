"""Statistics of attention maps over the real tokens: six of each chosen layer, three of the last.

A is a map of n real tokens i, j; every statistic is averaged over the heads. As published they are
nearly a function of n; `relative_statistics` says how a map differs from the uniform map A = 1 / n
of the same length. Source of the list: the public ALCNet.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from common.array_types import Array, Bool, Float, Int
from common.kernels import largest

FAR = 5
"""Distance from which a key is far from its query, tokens."""
OFF_DIAGONAL_SHARE = 0.60
"""Share of a head's mass off the diagonal above which the head counts as looking elsewhere."""

LAYER_NAMES = (
    "mass at a distance of 5 or more",
    "mass on token 0",
    "row entropy",
    "spread of row entropy over heads",
    "row maximum",
    "asymmetry",
)
LAST_NAMES = ("diagonal share", "off-diagonal share", "heads off the diagonal")


class HeadStatistics(NamedTuple):
    """What is measured of every head of one layer, (b, heads) each.

    Attributes:
        far: share of the mass at a distance of `FAR` tokens or more.
        first: mean mass on token 0.
        entropy: mean entropy of a row, nats.
        peak: mean maximum of a row.
        asymmetry: mean of |A - A'| over all pairs of tokens.
        diagonal: share of the mass on the diagonal.
    """

    far: Float[Array, "b heads"]
    first: Float[Array, "b heads"]
    entropy: Float[Array, "b heads"]
    peak: Float[Array, "b heads"]
    asymmetry: Float[Array, "b heads"]
    diagonal: Float[Array, "b heads"]


Summary = Callable[[Sequence[HeadStatistics], Int[Array, "b"]], Float[Array, "b k"]]
"""Makes the statistics of an example of those of its chosen layers' heads and its length."""


def head_statistics(
    maps: Float[Array, "b heads s s"], mask: Int[Array, "b s"] | Bool[Array, "b s"]
) -> HeadStatistics:
    """Measures the heads of one layer.

    Args:
        maps: rows add up to 1, with no mass on padding.
        mask: True or 1 for real tokens, which may stand anywhere; token 0 is the first of them.
            All ones count padding as tokens, as the seed does.
    """
    real = mask != 0
    n = jnp.maximum(jnp.sum(real, 1), 1).astype(jnp.float32)[:, None]
    rows = real[:, None, :, None].astype(jnp.float32)
    a = maps.astype(jnp.float32) * rows * real[:, None, None, :]
    place = jnp.cumsum(real, 1) - 1
    distance = jnp.abs(place[:, None, :, None] - place[:, None, None, :])
    total = jnp.maximum(jnp.sum(a, (2, 3)), 1e-30)
    first = (place == 0) & real
    safe = jnp.where(a > 0, a, 1.0)
    return HeadStatistics(
        far=jnp.sum(a * (distance >= FAR), (2, 3)) / total,
        first=jnp.sum(a * first[:, None, None, :], (2, 3)) / n,
        entropy=-jnp.sum(a * jnp.log(safe), (2, 3)) / n,
        peak=jnp.sum(largest(a, (3,)), 2) / n,
        asymmetry=jnp.sum(jnp.abs(a - jnp.swapaxes(a, 2, 3)), (2, 3)) / n**2,
        diagonal=jnp.sum(jnp.diagonal(a, axis1=2, axis2=3), 2) / total,
    )


def plain_statistics(
    layers: Sequence[HeadStatistics], length: Int[Array, "b"]
) -> Float[Array, "b k"]:
    """Returns the published statistics, 6 per layer and 3 of the last: 21 with three layers.

    The spread over heads is the standard deviation with the number of heads in the denominator.
    """
    del length
    columns = [column for layer in layers for column in _layer_columns(layer)]
    diagonal = layers[-1].diagonal.mean(1)
    apart = (1.0 - layers[-1].diagonal > OFF_DIAGONAL_SHARE).astype(jnp.float32).mean(1)
    return jnp.stack([*columns, diagonal, 1.0 - diagonal, apart], 1)


def relative_statistics(
    layers: Sequence[HeadStatistics], length: Int[Array, "b"]
) -> Float[Array, "b k"]:
    """Returns as many statistics in units of those of the uniform map of the same length n.

    Shares of mass are divided by what they are at A = 1 / n, entropies by log n. What scales as
    1 / n is multiplied by n: asymmetry, and, as logarithms, the mass on token 0, a row's maximum
    and the diagonal's share. The share of heads off the diagonal stays.
    """
    n = jnp.maximum(length, 2).astype(jnp.float32)[:, None]
    far = jnp.maximum((n - FAR) * (n - FAR + 1) / n**2, 1.0 / n**2)
    units = [
        layer._replace(
            far=layer.far / far,
            first=jnp.log(jnp.maximum(layer.first * n, 1e-6)),
            entropy=layer.entropy / jnp.log(n),
            peak=jnp.log(jnp.maximum(layer.peak * n, 1e-6)),
            asymmetry=layer.asymmetry * n,
        )
        for layer in layers
    ]
    columns = [column for layer in units for column in _layer_columns(layer)]
    diagonal = jnp.log(jnp.maximum(layers[-1].diagonal * n, 1e-6)).mean(1)
    elsewhere = (1.0 - layers[-1].diagonal).mean(1) * n[:, 0] / (n[:, 0] - 1.0)
    apart = (1.0 - layers[-1].diagonal > OFF_DIAGONAL_SHARE).astype(jnp.float32).mean(1)
    return jnp.stack([*columns, diagonal, elsewhere, apart], 1)


def detached(summary: Summary) -> Summary:
    """Returns the same statistics without gradients towards the encoder."""

    def without_gradient(
        layers: Sequence[HeadStatistics], length: Int[Array, "b"]
    ) -> Float[Array, "b k"]:
        return jax.lax.stop_gradient(summary(layers, length))

    return without_gradient


def statistic_names(layers: Sequence[int], measured: Sequence[str] = ()) -> list[str]:
    """Returns the names of the columns.

    Args:
        layers: numbers of the chosen layers.
        measured: names of statistics that come with the examples, such as `PERPLEXITY`.
    """
    named = [f"layer {layer}: {name}" for layer in layers for name in LAYER_NAMES]
    return [*named, *(f"layer {layers[-1]}: {name}" for name in LAST_NAMES), *measured]


def _layer_columns(layer: HeadStatistics) -> list[Array]:
    means = [x.mean(1) for x in (layer.far, layer.first, layer.entropy, layer.peak)]
    spread = jnp.sqrt(jnp.var(layer.entropy, axis=1) + 1e-12)  # with a gradient where all are equal
    return [*means[:3], spread, means[3], layer.asymmetry.mean(1)]
