"""The classifier of the notebooks, built from names."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array
from common.kernels import largest
from common.kernels.spectral import Boundary, Origin
from common.nn import (
    LearnedMap,
    LearnedTime,
    NoEmbedding,
    Rotary,
    SinusoidalTime,
    no_rotation,
    rotate_interleaved,
    rotate_space,
    rotate_spacetime,
    rotate_time,
)
from cssm import blocks
from cssm.model import SpectralClassifier
from cssm.norms import Norm, batch_norm, layer_norm
from cssm.readout import PooledReadout
from cssm.stem import ConvStem

BLOCKS: dict[str, Callable[..., blocks.StateSpaceBlock]] = {
    "transformer": blocks.TransformerBlock,
    "hgru_bi": blocks.HGRUBilinearBlock,
    "gated": blocks.GatedBlock,
    "standard": blocks.StandardBlock,
    "opponent": blocks.OpponentBlock,
    "gdn": blocks.GatedDeltaBlock,
    "gdn_4": partial(blocks.GatedDeltaBlock, key_size=4),
    "no_fft": blocks.NoFFTBlock,
    "spatial_attn": blocks.SpatialAttentionBlock,
    "transformer_stable": blocks.StableTransformerBlock,
    "hgru_bi_stable": blocks.StableHGRUBilinearBlock,
    "transformer_asymmetric": blocks.AsymmetricBlock,
    "transformer_no_feedback": blocks.NoFeedbackBlock,
    "transformer_no_key": blocks.NoKeyBlock,
    "transformer_unbounded": blocks.UnboundedBlock,
    "transformer_steady_gates": blocks.SteadyGatesBlock,
    **{
        f"transformer_read_{read.lower()}": partial(blocks.PartialReadoutBlock, read=tuple(read))
        for read in ("Q", "K", "A", "QK", "QA", "KA")
    },
}
"""Where two have the same parameters, `checkpoint_to_model` takes the earlier one."""


class Position(NamedTuple):
    """A position code: what is turned inside every block, and what comes before the first one."""

    rotary: Rotary = no_rotation
    embedding: Callable[[int, Any], nn.Module] = lambda rows, dtype: NoEmbedding()


POSITIONS: dict[str, Position] = {
    "none": Position(),
    "spatiotemporal": Position(rotate_spacetime),
    "spatial_only": Position(rotate_space),
    "temporal": Position(rotate_time),
    "mrope": Position(rotate_interleaved),
    "separate": Position(embedding=LearnedTime),
    "sinusoidal": Position(embedding=lambda rows, dtype: SinusoidalTime()),
    "learnable": Position(embedding=lambda rows, dtype: LearnedMap(dtype)),
}
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": jax.nn.gelu,
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
}
POOLS = {"max": largest, "mean": jnp.mean}
NORMS: dict[str, Norm] = {"batch": batch_norm, "layer": layer_norm}
LAST_ONLY = {"all": False, "last": True}
DTYPES = {"bfloat16": jnp.bfloat16, "float32": jnp.float32}


def SimpleCSSM(
    num_classes: int = 2,
    embed_dim: int = 64,
    depth: int = 1,
    cssm_type: str = "transformer",
    kernel_size: int = 15,
    pos_embed: str = "spatiotemporal",
    seq_len: int = 8,
    *,
    act: str = "softplus",
    pool: str = "mean",
    norm_type: str = "layer",
    readout: str = "last",
    max_seq_len: int = 32,
    origin: Origin = "centre",
    boundary: Boundary = "circular",
    dtype: str = "float32",
    param_dtype: str = "float32",
    act_type: str | None = None,
    pool_type: str | None = None,
    frame_readout: str | None = None,
) -> SpectralClassifier:
    """Builds the classifier of the notebooks from names.

    Args:
        num_classes: number of logits.
        embed_dim: width of stem and blocks; even.
        depth: number of blocks.
        cssm_type: the block, one of `BLOCKS`.
        kernel_size: side of the blocks' spatial kernels, in cells of the map.
        pos_embed: position code, one of `POSITIONS`.
        seq_len: time steps that a still image is shown for.
        act: nonlinearity of stem and readout, one of `ACTIVATIONS`.
        pool: pooling in the readout, one of `POOLS`.
        norm_type: norms of stem and readout, one of `NORMS`; 'batch' is for checkpoints that were
            trained elsewhere, `common.train` keeps no batch statistics.
        readout: the frames that are read, 'last' or 'all'.
        max_seq_len: learned times of the position code 'separate'.
        origin: layout of the kernels; 'upstream' for the public code's checkpoints.
        boundary: what lies beyond the map, its other side ('circular') or zeros ('zero'), see
            `cssm.spectra.Grid`.
        dtype: compute dtype of all but transforms and scan, 'float32' or 'bfloat16'.
        param_dtype: dtype of the parameters, likewise; gradients have it too, so train in float32.
        act_type: `act` as the public code calls it; goes before it.
        pool_type: `pool` as the public code calls it; goes before it.
        frame_readout: `readout` as the public code calls it; goes before it.

    Raises:
        ValueError: a name that is not in its list, or a size below 1.
    """
    sizes = {"num_classes": num_classes, "embed_dim": embed_dim, "depth": depth}
    sizes |= {"kernel_size": kernel_size, "seq_len": seq_len, "max_seq_len": max_seq_len}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; expected 1 or more")
    block = choose("cssm_type", cssm_type, BLOCKS)
    position = choose("pos_embed", pos_embed, POSITIONS)
    activation = choose("act", act_type or act, ACTIVATIONS)
    reduce = choose("pool", pool_type or pool, POOLS)
    norm = choose("norm_type", norm_type, NORMS)
    compute = choose("dtype", dtype, DTYPES)
    stored = choose("param_dtype", param_dtype, DTYPES)
    return SpectralClassifier(
        stem=ConvStem(embed_dim, activation, compute, norm, stored),
        embedding=position.embedding(max_seq_len, stored),
        blocks=tuple(
            block(
                embed_dim,
                kernel_size,
                position.rotary,
                origin,
                compute,
                stored,
                boundary,
                name=f"cssm_{i}",
            )
            for i in range(depth)
        ),
        readout=PooledReadout(num_classes, activation, reduce, compute, norm, stored),
        seq_len=seq_len,
        last_only=choose("readout", frame_readout or readout, LAST_ONLY),
    )


def choose(field: str, name: str, choices: Mapping[str, Any]) -> Any:
    """Returns what a name stands for.

    Raises:
        ValueError: it is not in the list; the message names the field and the choices.
    """
    if name not in choices:
        raise ValueError(f"{field} is {name!r}; choose one of {sorted(choices)}")
    return choices[name]
