"""Batches of examples of about equal length, so that little of a batch is padding."""

import functools
from collections.abc import Callable

import numpy as np

from common.data.pipeline import ShuffledOrder

POOL = 16
"""Number of batches that are sorted by length together."""


def grouped_order(
    lengths: np.ndarray, batch_size: int, seed: int, pool: int = POOL
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns an order of training examples, for a source's `order`.

    The shuffled stream of examples is cut into pools of `pool` batches; a pool is sorted by length,
    cut into batches, and its batches are shuffled. So every example still comes once per epoch (but
    for pools that two epochs share), a batch holds neighbours in length, and any batch can be made
    again from its number.

    Args:
        lengths: (n,) of all examples.
        batch_size: number of examples in a batch.
        seed: chooses the order.
        pool: number of batches that are sorted together; 1 leaves the shuffled order.
    """
    order, size = ShuffledOrder(len(lengths), seed), pool * batch_size

    @functools.lru_cache(maxsize=2)
    def arranged(number: int) -> np.ndarray:
        examples = order(np.arange(number * size, (number + 1) * size))
        examples = examples[np.argsort(lengths[examples], kind="stable")].reshape(pool, batch_size)
        bits = np.random.Philox(key=np.array([seed % 2**64, number], np.uint64), counter=1)
        return examples[np.argsort(bits.random_raw(pool), kind="stable")].ravel()

    def numbers(positions: np.ndarray) -> np.ndarray:
        pools, offsets = np.divmod(positions, size)
        result = np.empty_like(positions)
        for number in np.unique(pools):
            here = pools == number
            result[here] = arranged(int(number))[offsets[here]]
        return result

    return numbers
