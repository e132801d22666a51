"""Scaled dot-product attention, softmax(q k^T / sqrt(d) + mask) v, and its weights where asked for.

Heads lie between places and channels, (*b, q, heads, d). Keys and values may have fewer heads than
queries, each serving a group of neighbouring ones. Scores and softmax are in float32 at least.
Source: Vaswani et al. 2017, "Attention is all you need", equation 1.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Bool, Float
from common.kernels import by_rows, product, product_transposed, softmax

CUDNN_DTYPES = (jnp.bfloat16, jnp.float16)
CUDNN_LARGEST_HEAD = 128
HIDDEN = -1e30
"""Score of a key that a query may not see: all but zero weight, and no NaN where it sees none."""


def attend(
    query: Float[Array, "*b q heads d"],
    key: Float[Array, "*b s groups d"],
    value: Float[Array, "*b s groups d"],
    mask: Bool[Array, "*b #heads #q s"] | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Array, "*b q heads d"]:
    """Averages values by how well their keys answer each query.

    Takes the fastest exact path for the device and dtype: cuDNN's fused kernel on a GPU in half
    precision; on a CPU `attention_weights` and `average_values`, whose matrices lie as a CPU
    multiplies them fastest (`experiments.benchmarks.language`, case attention); else JAX's own.

    Args:
        query: what each place looks for.
        key: what each place offers.
        value: what is averaged.
        mask: True where a query may see a key. A query that may see none gets an average of all.
        causal: whether query i sees keys 0 to i alone; both must count from the same place.
        scale: factor of the scores; 1 / sqrt(d) where None.
    """
    if jax.default_backend() == "cpu":
        weights = attention_weights(query, key, mask, causal=causal, scale=scale)
        return average_values(weights, value)
    lead = query.shape[:-3]
    parts = [x.reshape(-1, *x.shape[-3:]) for x in (query, key, value)]
    if mask is not None:
        mask = mask.reshape(-1, *mask.shape[-3:])
    implementation = "cudnn" if _suits_cudnn(query) else "xla"
    out = jax.nn.dot_product_attention(
        *parts, mask=mask, scale=scale, is_causal=causal, implementation=implementation
    )
    return out.reshape(*lead, *out.shape[-3:])


def attention_weights(
    query: Float[Array, "*b q heads d"],
    key: Float[Array, "*b s groups d"],
    mask: Bool[Array, "*b #heads #q s"] | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Float[Array, "*b heads q s"]:
    """Returns the weights that `attend` averages with, in float32 at least; each row adds up to 1.

    Args:
        query: as for `attend`, and so all others.
        key: as for `attend`.
        mask: as for `attend`.
        causal: as for `attend`.
        scale: as for `attend`.
    """
    *lead, places, heads, width = query.shape
    groups, keys = key.shape[-2], key.shape[-3]
    query = _heads_first(query).reshape(*lead, groups, heads // groups * places, width)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = product_transposed(query, _heads_first(key), wide)
    scores = scores.reshape(*lead, heads, places, keys) * (width**-0.5 if scale is None else scale)
    if causal:
        seen = jnp.tri(places, keys, dtype=bool)[(None,) * (len(lead) + 1)]
        mask = seen if mask is None else mask & seen
    if mask is not None:
        scores = jnp.where(jnp.broadcast_to(mask, scores.shape), scores, HIDDEN)
    return softmax(scores)


def average_values(
    weights: Float[Array, "*b heads q s"], value: Float[Array, "*b s groups d"]
) -> Float[Array, "*b q heads d"]:
    """Averages values with given weights, those of `attention_weights` or what was made of them."""
    *lead, heads, places, keys = weights.shape
    groups, width = value.shape[-2:]
    rows = weights.reshape(*lead, groups, heads // groups * places, keys).astype(value.dtype)
    out = product(rows, _heads_first(value)).reshape(*lead, heads, places, width)
    return jnp.swapaxes(out, -2, -3)


def _heads_first(x: Float[Array, "*b s heads d"]) -> Float[Array, "*b heads s d"]:
    """Brings heads before places, in memory too."""
    return by_rows(jnp.swapaxes(x, -2, -3))


class DotProductAttention(nn.Module):
    """`attend` as a layer without parameters, which sows its weights as 'weights' if one looks.

    The weights are computed only where a caller captures intermediates (`common.analysis.capture`).

    Attributes:
        scale: factor of the scores; 1 / sqrt(d) where None.
    """

    scale: float | None = None

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "*b q heads d"],
        key: Float[Array, "*b s groups d"],
        value: Float[Array, "*b s groups d"],
        mask: Bool[Array, "*b #heads #q s"] | None = None,
        causal: bool = False,
    ) -> Float[Array, "*b q heads d"]:
        """Returns the averages; arguments as for `attend`."""
        if not self.is_mutable_collection("intermediates"):
            return attend(query, key, value, mask, causal=causal, scale=self.scale)
        weights = attention_weights(query, key, mask, causal=causal, scale=self.scale)
        self.sow("intermediates", "weights", weights)
        return average_values(weights, value)


def _suits_cudnn(query: Array) -> bool:
    """Tells whether cuDNN's kernel is there and takes such queries."""
    width = query.shape[-1]
    return (
        jax.default_backend() == "gpu"
        and query.dtype in CUDNN_DTYPES
        and width % 8 == 0
        and width <= CUDNN_LARGEST_HEAD
    )
