import itertools

import numpy as np
import pytest

from common.data.pipeline import (
    ShuffledOrder,
    Subset,
    evaluation_batches,
    gather,
    training_batches,
)
from common.errors import UserError


class Source:
    """Examples that hold their own number."""

    def __init__(self, count):
        self.count = count

    @property
    def fingerprint(self):
        return str(self.count)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"number": np.int32(index), "pair": np.array([index, -index], np.float32)}


class GatheringSource(Source):
    def __getitems__(self, indices):
        return {"number": indices.astype(np.int32), "pair": np.stack([indices, -indices], 1)}


def numbers(count, batch_size, seed, start=0, steps=20):
    batches = training_batches(Source(count), batch_size, seed, start)
    result = [batch["number"] for batch in itertools.islice(batches, steps)]
    batches.close()
    return np.stack(result)


def test_every_epoch_holds_each_example_once_in_its_own_order():
    epochs = numbers(12, 8, seed=0, steps=6).reshape(4, 12)  # epochs end inside batches
    assert (np.sort(epochs, axis=1) == np.arange(12)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("start", [1, 2, 7, 13])
def test_a_batch_does_not_depend_on_where_the_stream_began(start):
    assert (numbers(11, 4, 5, start, steps=6) == numbers(11, 4, 5)[start : start + 6]).all()


def test_a_batch_may_be_larger_than_the_source():
    assert (np.bincount(numbers(3, 10, 0, steps=3).ravel()) == 10).all()


def test_seeds_give_unrelated_orders():
    first, second = (numbers(20, 20, seed, steps=4) for seed in (0, 1))
    agreement = (first[:, None] == second[None]).mean(-1)
    assert agreement.max() < 0.5
    assert (numbers(20, 20, 0, steps=4) == first).all()
    assert sorted(numbers(6, 6, seed=-1, steps=1)[0]) == list(range(6))


def test_the_order_is_the_same_in_every_version():
    order = ShuffledOrder(8, seed=3)
    assert order(np.arange(16)).tolist() == PINNED


PINNED = [6, 1, 5, 2, 7, 4, 3, 0, 7, 3, 5, 6, 4, 0, 2, 1]


@pytest.mark.parametrize(
    "batches", [lambda s: training_batches(s, 4, 0), lambda s: evaluation_batches(s, 4)]
)
def test_gathering_at_once_gives_the_same_batches(batches):
    pairs = zip(batches(Source(9)), batches(GatheringSource(9)), strict=True)
    for one, other in itertools.islice(pairs, 3):
        assert one.keys() == other.keys()
        assert all((one[name] == other[name]).all() for name in one)
        assert one["pair"].shape == (4, 2)


@pytest.mark.parametrize(("count", "batch_size"), [(7, 3), (6, 3), (1, 4), (5, 1)])
def test_evaluation_passes_over_everything_once_in_order(count, batch_size):
    batches = list(evaluation_batches(Source(count), batch_size))
    assert {batch["number"].shape for batch in batches} == {(batch_size,)}
    masks = np.concatenate([batch["mask"] for batch in batches])
    seen = np.concatenate([batch["number"] for batch in batches])
    assert masks.dtype == bool
    assert seen[masks].tolist() == list(range(count))
    assert (seen[~masks] == count - 1).all()


def test_an_empty_source_is_refused():
    with pytest.raises(UserError, match="training examples is empty"):
        training_batches(Source(0), 4, 0)
    with pytest.raises(UserError, match="evaluation examples is empty"):
        evaluation_batches(Source(0), 4)


def test_an_error_of_the_source_reaches_the_loop():
    class Broken(Source):
        def __getitem__(self, index):
            raise OSError("record 3 of data.bin is damaged")

    with pytest.raises(OSError, match="record 3 of data.bin"):
        next(training_batches(Broken(4), 2, 0))


def test_processes_share_a_batch_in_order():
    def first(shard):
        batches = training_batches(GatheringSource(10), 4, 3, 2, shard)
        result = [next(batches)["number"] for _ in range(3)]
        batches.close()
        return np.stack(result)

    parts = [first((process, 2)) for process in range(2)]
    np.testing.assert_array_equal(np.concatenate(parts, 1), first((0, 1)))
    with pytest.raises(UserError, match="batch_size is 4; it must be a multiple of the 3"):
        first((0, 3))


@pytest.mark.parametrize("kind", [Source, GatheringSource])
def test_a_subset_offers_the_chosen_examples(kind):
    source = kind(10)
    some = Subset(source, np.array([7, 2, 2]))
    assert [int(some[i]["number"]) for i in range(len(some))] == [7, 2, 2]
    np.testing.assert_array_equal(gather(some, np.array([2, 0]))["number"], [2, 7])
    assert some.fingerprint == Subset(kind(10), [7, 2, 2]).fingerprint
    assert some.fingerprint != Subset(source, [2, 7, 2]).fingerprint
    assert some.fingerprint != Subset(kind(11), [7, 2, 2]).fingerprint
