"""Low-rank adaptation: learns W + (scale / r) A B in place of W, for chosen kernels.

The parameters of a model stay as they are; adapters are a tree of their own, and the model is
applied to the merged parameters. Source: Hu et al. 2021, "LoRA", section 4.1.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from common.array_types import PRNGKey, PyTree

QUERY_VALUE = r"attention/(query|value)/kernel"


def init_adapters(rng: PRNGKey, params: PyTree, rank: int, pattern: str = QUERY_VALUE) -> PyTree:
    """Draws adapters; B is zero, so that merging changes nothing yet.

    Args:
        rng: key.
        params: parameters of a model, nested dicts.
        rank: r.
        pattern: regular expression that the path of a kernel, joined by '/', holds.

    Returns:
        A tree like the parameters, with {'a': (in, r), 'b': (r, out)} for each chosen kernel.

    Raises:
        ValueError: no kernel is matched, or the rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}; expected 1 or more")
    kernels = {
        path: leaf
        for path, leaf in _flat(params).items()
        if re.search(pattern, path) and leaf.ndim == 2
    }
    if not kernels:
        raise ValueError(f"no kernel has {pattern!r} in its path")
    adapters = {}
    keys = jax.random.split(rng, len(kernels))
    for key, (path, kernel) in zip(keys, kernels.items(), strict=True):
        rows, columns = kernel.shape
        adapters[f"{path}/a"] = jax.random.normal(key, (rows, rank)) * rows**-0.5
        adapters[f"{path}/b"] = jnp.zeros((rank, columns))
    return unflatten_dict(adapters, sep="/")


def merge(params: PyTree, adapters: PyTree, scale: float = 16.0) -> PyTree:
    """Returns the parameters with W + (scale / r) A B in place of each adapted W."""
    flat, pairs = _flat(params), _flat(adapters)
    for path in {path.rpartition("/")[0] for path in pairs}:
        a, b = pairs[f"{path}/a"], pairs[f"{path}/b"]
        flat[path] = flat[path] + (scale / a.shape[1]) * (a @ b).astype(flat[path].dtype)
    return unflatten_dict(flat, sep="/")


def _flat(tree: PyTree) -> dict[str, Any]:
    return dict(flatten_dict(tree, sep="/"))
