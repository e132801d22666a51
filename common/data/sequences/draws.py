"""Random numbers that are functions of a seed and the number of an example."""

import numpy as np

from common.data.pipeline import Batch

BLANK, MARK = 0, 1
"""Tokens of tasks that have special ones."""


def random_words(seed: int, indices: np.ndarray, count: int) -> np.ndarray:
    """Returns `count` words (b, count) uint64 an index, a function of seed and index.

    Row i holds the first words of Philox (Salmon et al. 2011) with the key (seed, indices[i]).
    """
    words = np.empty((len(indices), count), np.uint64)
    bits = np.random.Philox(key=0, counter=0)
    state = bits.state
    for row, index in zip(words, indices.tolist(), strict=True):
        state["state"]["key"][:] = seed, index
        bits.state = state
        row[:] = bits.random_raw(count)
    return words


def uniform(words: np.ndarray) -> np.ndarray:
    """Returns numbers in [0, 1), multiples of 2^-53."""
    return (words >> np.uint64(11)) * 2.0**-53


def below(words: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Returns integers from 0 to bound - 1, all but exactly uniform for any bound in use."""
    return (uniform(words) * bound).astype(np.int64)


def choose(words: np.ndarray, bound: int) -> np.ndarray:
    """Returns as many different integers below `bound` as there are words, in random order.

    The first steps of a shuffle (Fisher and Yates), for all rows at once.
    """
    rows, count = np.arange(len(words)), words.shape[1]
    deck = np.tile(np.arange(bound), (len(words), 1))
    picks = np.arange(count) + below(words, bound - np.arange(count))
    for i in range(count):
        taken = deck[rows, picks[:, i]]
        deck[rows, picks[:, i]] = deck[:, i]
        deck[:, i] = taken
    return deck[:, :count]


def as_batch(tokens: np.ndarray, scored: np.ndarray) -> Batch:
    """Returns the batch of tokens (b, context + 1) and what of them is scored, (#b, context)."""
    scored = np.broadcast_to(scored, (len(tokens), tokens.shape[1] - 1))
    return {"tokens": tokens.astype(np.int32), "scored": np.array(scored)}
