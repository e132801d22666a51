"""Averages of per-example scores, and the uncertainty of a proportion."""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from common.array_types import Array
from common.train.task import Batch, Params

Z_95 = 1.959963984540054
"""Standard normal quantile at 0.975."""

WEIGHT = "weight"
"""Score that says how much an example counts in the means of the others."""

BatchSums = dict[str, tuple[Array, Array]]
"""By score: the sum over a batch, and whether every value in it is 0 or 1."""


def wilson_interval(successes: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """Computes the Wilson score interval of a proportion, by default at 95 %.

    Args:
        successes: Number of successes out of `n`.
        n: Number of trials; 0 gives (0, 1).
        z: Half width of the interval in standard deviations.
    """
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = p + z**2 / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = ((centre + sign * spread) / (1 + z**2 / n) for sign in (-1, 1))
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def make_batch_sums(
    score: Callable[[Params, Batch], dict[str, Array]],
) -> Callable[[Params, Batch], BatchSums]:
    """Returns the jitted function that sums the scores of a padded batch over its real examples.

    Args:
        score: Gives values of shape (b,) by name. It does not see the entry 'mask' (b,) of the
            batch, which is False for padding. The value 'weight', if there is one, says how much
            each example counts in the means of the others.
    """

    def batch_sums(params: Params, batch: Batch) -> BatchSums:
        mask = batch["mask"]
        values = score(params, {name: x for name, x in batch.items() if name != "mask"})
        if WEIGHT not in values:
            return {name: _masked_sum(name, value, mask) for name, value in values.items()}
        weight = values.pop(WEIGHT)
        never = jnp.zeros((), bool)
        sums = {
            name: (_masked_sum(name, weight * value, mask)[0], never)
            for name, value in values.items()
        }
        return sums | {WEIGHT: (_masked_sum(WEIGHT, weight, mask)[0], never)}

    return jax.jit(batch_sums)


def summarise(sums: Sequence[BatchSums], count: int) -> dict[str, float | int]:
    """Turns the sums of all batches into means over `count` examples, or over their weights.

    A score that is 0 or 1 for every example is a proportion: '<name>_low' and '<name>_high' bound
    it with 95 % confidence.
    """
    totals = {name: math.fsum(float(batch[name][0]) for batch in sums) for name in sums[0]}
    weight = totals.pop(WEIGHT, count)
    result: dict[str, float | int] = {}
    for name, total in totals.items():
        result[name] = total / weight
        if all(bool(batch[name][1]) for batch in sums):
            result[f"{name}_low"], result[f"{name}_high"] = wilson_interval(total, count)
    if WEIGHT in sums[0]:
        result[WEIGHT] = weight
    return result | {"count": count}


def format_scores(scores: Mapping[str, float | int]) -> str:
    """Formats scores for a person: 'accuracy 0.91 (0.88 to 0.93), loss 0.21 on 500 examples'."""
    parts = []
    for name, value in scores.items():
        if name.endswith(("_low", "_high")) or name in (WEIGHT, "count"):
            continue
        low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
        parts.append(f"{name} {value:.4g}" + ("" if low is None else f" ({low:.4g} to {high:.4g})"))
    return f"{', '.join(parts)} on {scores['count']} examples"


def _masked_sum(name: str, value: Array, mask: Array) -> tuple[Array, Array]:
    if value.shape != mask.shape:
        raise ValueError(f"score {name!r} has shape {value.shape}, expected {mask.shape}")
    value = jnp.where(mask, value.astype(jnp.float32), 0.0)
    return jnp.sum(value), jnp.all((value == 0) | (value == 1))
