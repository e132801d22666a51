"""Low-rank adaptation: learns W + (scale / r) A B in place of W, for chosen kernels.

The parameters of a model stay as they are; adapters are a tree of their own, and the model is
applied to the merged parameters. Source: Hu et al. 2021, "LoRA", section 4.1.
"""

import re

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from common.array_types import PRNGKey, PyTree

QUERY_VALUE = r"attention/(query|value)/kernel"


def init_adapters(
    rng: PRNGKey, params: PyTree, rank: int, pattern: str = QUERY_VALUE
) -> dict[str, PyTree]:
    """Draws adapters; B is zero, so that merging changes nothing yet.

    Args:
        rng: key.
        params: parameters of a model, nested dicts.
        rank: r.
        pattern: regular expression that the path of a kernel, joined by '/', holds.

    Returns:
        {'a': (in, r), 'b': (r, out)} by the joined path of each kernel.

    Raises:
        ValueError: no kernel is matched, or the rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}; expected 1 or more")
    kernels = {
        path: leaf
        for path, leaf in flatten_dict(params, sep="/").items()
        if re.search(pattern, path) and leaf.ndim == 2
    }
    if not kernels:
        raise ValueError(f"no kernel has {pattern!r} in its path")
    adapters = {}
    for key, (path, kernel) in zip(
        jax.random.split(rng, len(kernels)), kernels.items(), strict=True
    ):
        rows, columns = kernel.shape
        a = jax.random.normal(key, (rows, rank)) * rows**-0.5
        adapters[path] = {"a": a, "b": jnp.zeros((rank, columns))}
    return adapters


def merge(params: PyTree, adapters: dict[str, PyTree], scale: float = 16.0) -> PyTree:
    """Returns the parameters with W + (scale / r) A B in place of each adapted W."""
    flat = dict(flatten_dict(params, sep="/"))
    for path, pair in adapters.items():
        rank = pair["a"].shape[1]
        flat[path] = flat[path] + (scale / rank) * (pair["a"] @ pair["b"]).astype(flat[path].dtype)
    return unflatten_dict(flat, sep="/")
