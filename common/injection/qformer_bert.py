"""Starts a Q-Former from BERT: everything but the attention to features.

Source: Li et al. 2023, "BLIP-2", section 3.1. As in the public code the queries' feed-forward nets
begin as those of the text.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from common.array_types import PyTree
from common.checkpoints.tensors import check_shapes

PREFIXES = ("bert.",)

_DENSE = {
    "attention/query": "attention.self.query",
    "attention/key": "attention.self.key",
    "attention/value": "attention.self.value",
    "attention/out": "attention.output.dense",
    "query_mlp/up": "intermediate.dense",
    "query_mlp/down": "output.dense",
    "text_mlp/up": "intermediate.dense",
    "text_mlp/down": "output.dense",
}
_NORMS = {
    "attention/norm": "attention.output.LayerNorm",
    "query_mlp/norm": "output.LayerNorm",
    "text_mlp/norm": "output.LayerNorm",
}
_PARTS = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def initialise_from_bert(params: PyTree, tensors: Mapping[str, np.ndarray]) -> PyTree:
    """Returns parameters of a `QFormer` with BERT's in the place of all but cross-attention.

    Args:
        params: of a `QFormer`; layers beyond those of BERT are refused.
        tensors: of a BERT checkpoint by their public names (`load_hf_tensors`), with or without
            the prefix 'bert.', layer norms as weight and bias or as gamma and beta. What the
            Q-Former has no place for is left.

    Raises:
        DataError: a tensor is missing or has another shape.
    """
    named = {_public_name(name): tensor for name, tensor in tensors.items()}
    flat: dict[str, Any] = dict(flatten_dict(params, sep="/"))
    sources = {path: name for path in flat if (name := _source(path)) is not None}
    shapes = {name: _stored_shape(path, flat[path].shape) for path, name in sources.items()}
    check_shapes({n: named[n] for n in shapes if n in named}, shapes, "BERT")
    placed = {path: _placed(path, named[name], flat[path].dtype) for path, name in sources.items()}
    return unflatten_dict({**flat, **placed}, sep="/")


def text_from_bert(tensors: Mapping[str, np.ndarray]) -> PyTree:
    """Returns the parameters of a `TextEmbedding` from BERT's words and positions.

    BERT's token types have no place there.

    Raises:
        DataError: the words or the positions are missing.
    """
    named = {_public_name(name): tensor for name, tensor in tensors.items()}
    tables = {kind: f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position")}
    shapes = {name: named[name].shape if name in named else () for name in tables.values()}
    check_shapes({n: named[n] for n in shapes if n in named}, shapes, "BERT")
    return {kind: jnp.asarray(named[name], jnp.float32) for kind, name in tables.items()}


def _source(path: str) -> str | None:
    """Returns the tensor of BERT that a parameter begins as; None for cross-attention."""
    if path.startswith("norm/"):
        return f"embeddings.LayerNorm.{_PARTS[path.removeprefix('norm/')]}"
    layer, _, inner = path.partition("/")
    block, _, part = inner.rpartition("/")
    stored = (_DENSE | _NORMS).get(block)
    if stored is None:
        return None
    return f"encoder.layer.{layer.removeprefix('layers_')}.{stored}.{_PARTS[part]}"


def _public_name(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _stored_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[::-1] if path.endswith("kernel") else shape


def _placed(path: str, tensor: np.ndarray, dtype: np.dtype) -> jnp.ndarray:
    return jnp.asarray(tensor.T if path.endswith("kernel") else tensor, dtype)
