"""Gates as numbers, and why the parameters alone do not tell them.

A gate is bound(W ctx_t + b) for the mean ctx_t of a block's input: it differs between images, steps
and frequencies. What it truly is for some images, `common.analysis.capture` gives, by names such as
'cssm_0/gates/decay_Q', as arrays (T, b, h, f, 1).
"""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from common.array_types import PyTree
from cssm.blocks.spectral import SpectralBlock
from cssm.model import SpectralClassifier


def mean_parameter_gates(
    model: SpectralClassifier,
    params: Mapping[str, PyTree],
    bounds: Literal["true", "plain_sigmoid"] = "true",
) -> dict[str, dict[str, float]]:
    """Returns bound(mean of W + mean of b) for every gate, by block and name.

    One number for a gate without any image, as the notebooks of the public code have it: right
    only where the channels of the context sum to one and all weights are alike.

    Args:
        model: the classifier.
        params: its parameters.
        bounds: 'true', the bound that the model has (decays 0.1 + 0.89 sigmoid); 'plain_sigmoid',
            the notebooks' sigmoid for all gates, which puts a decay of 0.545 at 0.5.

    Raises:
        ValueError: other bounds.
    """
    if bounds not in ("true", "plain_sigmoid"):
        raise ValueError(f"bounds is {bounds!r}; choose 'true' or 'plain_sigmoid'")
    found: dict[str, dict[str, float]] = {}
    for block in model.blocks:
        if not isinstance(block, SpectralBlock):
            continue
        gates = params[str(block.name)]
        found[str(block.name)] = {
            name: float(
                (bound if bounds == "true" else jax.nn.sigmoid)(
                    jnp.mean(gates[name]["kernel"]) + jnp.mean(gates[name]["bias"])
                )
            )
            for name, bound in block.gate_bounds.items()
        }
    return found
