"""Batches from a source of examples: shuffled without end for training, in order for scoring.

Batches are put together in background threads of grain. The order of the training examples is one
permutation per epoch that depends on the seed and the number of the epoch alone, so any batch can
be made again from its number, and a run continues at any step without replaying the ones before.
"""

import functools
import hashlib
import sys
from collections.abc import Callable, Generator
from typing import Protocol

import grain
import numpy as np

from common.errors import UserError

Example = dict[str, np.ndarray]
Batch = dict[str, np.ndarray]

READ_OPTIONS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


class Source(Protocol):
    """Offers unbatched examples by number; the same number always gives the same example.

    A source may also have `__getitems__(indices) -> Batch`, which gathers the examples of an
    integer array (b,) at once, as new arrays with a leading batch axis. It is used where present.

    A source may also have `order(seed)`, which returns a function from positions (b,) in the
    endless stream of training examples, rising and one after the other, to example numbers; it
    replaces `ShuffledOrder`.
    """

    @property
    def fingerprint(self) -> str:
        """A text that changes whenever the examples do."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


class Subset:
    """Some examples of a source, in an order of their own.

    Args:
        source: the examples.
        indices: (n,) numbers of those to offer.
    """

    def __init__(self, source: Source, indices: np.ndarray):
        self._source, self._indices = source, np.asarray(indices)

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        """Returns one example of the source."""
        return self._source[int(self._indices[index])]

    def __getitems__(self, indices: np.ndarray) -> Batch:
        """Returns the examples at `indices` (b,) as one batch."""
        return gather(self._source, self._indices[indices])

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the source and the choice."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self._source.fingerprint.encode())
        digest.update(self._indices.astype("<i8").tobytes())
        return digest.hexdigest()[:16]


def training_batches(
    source: Source,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> Generator[Batch, None, None]:
    """Yields shuffled batches without end, beginning with batch number `start_step`.

    Batch s is a function of (len(source), batch_size, seed, s). Every example comes once per
    epoch, and every epoch has its own order; a batch may span two epochs. Where the source has an
    order of its own, that takes its place. Close the generator to stop its threads.

    Args:
        source: Examples to draw from. With `__getitems__(indices)` a batch is gathered at once.
        batch_size: Number of examples in a batch.
        seed: Chooses the order; any integer.
        start_step: Number of the first batch.
        shard: (process, processes). Each process yields its own equal part of every batch; the
            parts in order are the batch of one process.

    Raises:
        UserError: The source is empty, or the processes do not divide the batch.
    """
    if len(source) == 0:
        raise UserError("the source of training examples is empty")
    process, processes = shard
    if batch_size % processes:
        raise UserError(
            f"config.train.batch_size is {batch_size}; it must be a multiple of the "
            f"{processes} processes"
        )
    order = _training_order(source, seed)
    part = batch_size // processes

    def load(step: int) -> Batch:
        start = step * batch_size + process * part
        return gather(source, order(np.arange(start, start + part)))

    return _prefetch(load, start_step, sys.maxsize // batch_size)


def evaluation_batches(
    source: Source, batch_size: int, shard: tuple[int, int] = (0, 1)
) -> Generator[Batch, None, None]:
    """Yields all examples once, in order, in batches of equal size.

    The last batch is filled up with its last example. The boolean entry 'mask' (b,) is False there.

    Args:
        source: Examples to score.
        batch_size: Number of examples in a batch.
        shard: As for `training_batches`; the processes divide the batch.

    Raises:
        UserError: The source is empty.
    """
    process, processes = shard
    part = batch_size // processes
    count = len(source)
    if count == 0:
        raise UserError("a source of evaluation examples is empty")

    def load(number: int) -> Batch:
        start = number * batch_size + process * part
        indices = np.arange(start, start + part)
        return gather(source, np.minimum(indices, count - 1)) | {"mask": indices < count}

    return _prefetch(load, 0, -(-count // batch_size))


def batch_indices(source: Source, batch_size: int, seed: int, number: int) -> np.ndarray:
    """Returns which examples of `source` make up batch `number` of `training_batches`: (b,) ints.

    The step that finishes as number s learns from batch s - 1.
    """
    start = number * batch_size
    return _training_order(source, seed)(np.arange(start, start + batch_size))


def training_indices(count: int, batch_size: int, seed: int, number: int) -> np.ndarray:
    """Returns which of `count` examples, shuffled, make up batch `number`: (b,) ints."""
    start = number * batch_size
    return ShuffledOrder(count, seed)(np.arange(start, start + batch_size))


class ShuffledOrder:
    """Maps positions in the endless stream of training examples to example numbers.

    An epoch's permutation sorts the raw output of a counter-based generator keyed by (seed,
    epoch). It is computed whole and kept, which costs a hundredth of shuffling index by index in
    `grain`.
    """

    def __init__(self, count: int, seed: int):
        self._count = count
        self._seed = seed % 2**64
        self._permutation = functools.lru_cache(maxsize=2)(self._draw)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Returns the example number at each of the `positions`, which must be in order."""
        epochs, offsets = np.divmod(positions, self._count)
        result = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            result[here] = self._permutation(int(epoch))[offsets[here]]
        return result

    def _draw(self, epoch: int) -> np.ndarray:
        key = np.array([self._seed, epoch], np.uint64)
        return np.argsort(np.random.Philox(key=key).random_raw(self._count), kind="stable")


def _training_order(source: Source, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    own = getattr(source, "order", None)
    return ShuffledOrder(len(source), seed) if own is None else own(seed)


def gather(source: Source, indices: np.ndarray) -> Batch:
    """Returns the examples at `indices` (b,), stacked along a leading batch axis."""
    gather_all = getattr(source, "__getitems__", None)
    if gather_all is not None:
        return dict(gather_all(indices))
    examples = [source[int(index)] for index in indices]
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _prefetch(load: Callable[[int], Batch], start: int, stop: int) -> Generator[Batch, None, None]:
    """Yields `load(start)`, ... `load(stop - 1)` in order, loading ahead in threads."""
    dataset = grain.MapDataset.range(start, stop).map(load).to_iter_dataset(READ_OPTIONS)
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()
