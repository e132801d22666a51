"""Normalisation over channels, as functions that a layer calls with a name."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from common.nn import LayerNorm

Norm = Callable[[str, Any, Any, bool], nn.Module]
"""norm(name, dtype, param_dtype, training) makes the layer, where a layer may be made."""


def layer_norm(name: str, dtype: Any, param_dtype: Any, training: bool) -> nn.Module:
    """Normalises every place by itself; the same in training."""
    del training
    return LayerNorm(dtype=dtype, param_dtype=param_dtype, name=name)


def batch_norm(name: str, dtype: Any, param_dtype: Any, training: bool) -> nn.Module:
    """Normalises by statistics of the batch in training, of the past otherwise.

    They are the collection 'batch_stats', which must be mutable in training. `common.train` keeps
    none: it is there for checkpoints that were trained elsewhere.
    """
    return nn.BatchNorm(
        use_running_average=not training,
        momentum=0.99,
        epsilon=1e-5,
        dtype=dtype,
        param_dtype=param_dtype,
        name=name,
    )
