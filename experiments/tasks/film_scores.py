"""What FiLM does over training: gamma and beta of every block, summed up over a set of examples.

A score is a number of each example, of which the loop takes means; spreads are made of the means
afterwards. gamma counts from 1, where it begins, so that a small spread is not lost in rounding.
"""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from alcnet.attention_cnn import Modulation
from common.array_types import Array

_MOMENT = "film moment "
BEGINNINGS = {"gamma": 1.0, "beta": 0.0}
"""Where FiLM is the identity."""


def film_moments(modulations: Sequence[Modulation]) -> dict[str, Array]:
    """Returns numbers (b,) whose means over examples `film_summary` reads; none without FiLM."""
    found = {}
    for number, pair in enumerate(modulations, 1):
        for (name, begin), values in zip(BEGINNINGS.items(), pair, strict=True):
            moved = values.astype(jnp.float32) - begin
            stem = f"{_MOMENT}{film_name(number, name)}"
            found |= {f"{stem} {channel}": moved[:, channel] for channel in range(moved.shape[1])}
            found[f"{stem} square"] = jnp.mean(moved**2, 1)
    return found


def film_name(number: int, name: str) -> str:
    """Returns the name in a run's record of gamma or beta of block `number`, from 1."""
    return f"film_{number}_{name}"


def film_summary(scores: Mapping[str, float]) -> dict[str, float]:
    """Returns the summary of the means of `film_moments`, an entry for each block and side.

    'film_1_gamma' is the mean over examples and channels, 'film_1_gamma_over_channels' the standard
    deviation over channels of the mean over examples, and 'film_1_gamma_over_examples' the root
    mean square over channels of the standard deviation over examples, which is the conditioning.
    """
    found = {}
    squares = [key for key in scores if key.startswith(_MOMENT) and key.endswith(" square")]
    for key in squares:
        stem = key.removesuffix(" square")
        name, means = stem.removeprefix(_MOMENT), []
        while (moment := f"{stem} {len(means)}") in scores:
            means.append(scores[moment])
        begin = BEGINNINGS[name.rpartition("_")[2]]
        variance = scores[key] - np.mean(np.square(means))
        found[name] = begin + float(np.mean(means))
        found[f"{name}_over_channels"] = float(np.std(means))
        found[f"{name}_over_examples"] = float(np.sqrt(max(variance, 0.0)))
    return found


def without_moments(scores: Mapping[str, float]) -> dict[str, float]:
    """Returns the scores without what was there for `film_summary` alone."""
    return {name: value for name, value in scores.items() if not name.startswith(_MOMENT)}
