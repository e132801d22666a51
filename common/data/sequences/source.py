"""Examples of a task, made when they are asked for."""

import functools
import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from common.data.checks import require_integer
from common.data.pipeline import Batch, Example
from common.data.sequences.draws import random_words


class SequenceTask(Protocol):
    """Settings of a task, and how its examples follow from random words."""

    @property
    def context(self) -> int:
        """Number of predictions in an example."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of different tokens, the special ones included."""
        ...

    @property
    def words(self) -> int:
        """Number of random words that an example is made of."""
        ...

    @property
    def chance(self) -> float:
        """Best accuracy on what is scored of whoever does not look at the context."""
        ...

    def build(self, words: np.ndarray) -> Batch:
        """Returns the examples made of uniform random words (b, words) uint64."""
        ...


class GeneratedSequences:
    """Examples of a task, as a random-access source; nothing is stored.

    Example i is a function of (task, seed, i) alone. Examples of other seeds are others: give each
    split its own seed.

    Args:
        task: what the examples are.
        count: number of examples.
        seed: any integer.

    Raises:
        UserError: a count that is no integer of 1 or more.
    """

    def __init__(self, task: SequenceTask, count: int, seed: int = 0):
        require_integer("count", count, 1)
        self.task, self._count, self._seed = task, int(count), int(seed) % 2**64

    def __len__(self) -> int:
        """Returns the number of examples."""
        return self._count

    def __getitem__(self, index: int) -> Example:
        """Returns one example: 'tokens' (context + 1,) int32 and 'scored' (context,) bool."""
        batch = self.__getitems__(np.array([range(self._count)[index]]))
        return {name: array[0] for name, array in batch.items()}

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """Returns the examples at `indices` (b,), from 0 on, as one batch."""
        return self.task.build(random_words(self._seed, np.asarray(indices), self.task.words))

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the task, its settings, the count or the seed."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        text = f"1 {self.task} {self._count} {self._seed}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]
