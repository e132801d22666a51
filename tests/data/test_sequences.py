"""Made-up sequences: what is predicted, that the context determines it, and floors by counting."""

import dataclasses
import time
from typing import Any

import numpy as np
import pytest

from common.data.pipeline import evaluation_batches
from common.data.sequences import (
    AssociativeRecall,
    Copying,
    GeneratedSequences,
    RepeatedSequences,
    SequenceTask,
)
from common.data.sequences.draws import choose, random_words
from common.errors import UserError

TASKS = [
    RepeatedSequences(16, 12),
    RepeatedSequences(16, 12, distinct=True),
    RepeatedSequences(16, 12, distinct=True, shortest=5),
    AssociativeRecall(20, 30, pairs=4, queries=6, context=41),
    AssociativeRecall(20, 30, pairs=4, context=30, power=1.0, noise=True),
    Copying(10, 5, gap=7),
    Copying(10, 5, gap=9, shortest=2, noise=True),
]
COUNT = 3000


def drawn(task: SequenceTask, count: int = COUNT, seed: int = 0) -> dict[str, np.ndarray]:
    return GeneratedSequences(task, count, seed).__getitems__(np.arange(count))


def accuracy(batch: dict[str, np.ndarray], guesses: np.ndarray) -> float:
    """Returns the share of scored predictions (b, context) that are right."""
    return float((guesses == batch["tokens"][:, 1:])[batch["scored"]].mean())


def margin(batch: dict[str, np.ndarray], share: float) -> float:
    """Returns four standard errors of a share of the scored predictions."""
    return 4 * np.sqrt(share * (1 - share) / batch["scored"].sum())


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_examples_have_the_common_form(task):
    batch = drawn(task)
    assert batch["tokens"].dtype == np.int32 and batch["tokens"].shape == (COUNT, task.context + 1)
    assert batch["scored"].dtype == np.bool_ and batch["scored"].shape == (COUNT, task.context)
    used = np.unique(batch["tokens"])
    assert used[0] >= 0 and used[-1] == task.vocab_size - 1
    assert batch["scored"].any(1).all()


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_the_best_guess_without_context_is_chance(task):
    """The most frequent target at each position is right as often as `chance` says."""
    fitted, held = drawn(task), drawn(task, seed=1)
    targets = fitted["tokens"][:, 1:]
    favourite = np.zeros(task.context, int)
    for place in range(task.context):
        here = targets[:, place][fitted["scored"][:, place]]
        favourite[place] = np.bincount(here).argmax() if here.size else 0
    guessed = accuracy(held, favourite[None])
    assert guessed == pytest.approx(task.chance, abs=margin(held, task.chance))
    least = 1 / len(np.unique(targets[fitted["scored"]]))
    assert task.chance == pytest.approx(least)


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_an_example_depends_on_task_seed_and_number_alone(task):
    large, small = GeneratedSequences(task, 10**9, 7), GeneratedSequences(task, 50, 7)
    whole = large.__getitems__(np.arange(50))
    mixed = large.__getitems__(np.array([40, 3, 3, 17]))
    for name, array in mixed.items():
        np.testing.assert_array_equal(array, whole[name][[40, 3, 3, 17]])
        np.testing.assert_array_equal(small[49][name], whole[name][49])
        np.testing.assert_array_equal(small[-1][name], whole[name][49])
    rows = {row.tobytes() for row in whole["tokens"]}
    assert len(rows) == 50
    assert not rows & {row.tobytes() for row in drawn(task, 50, seed=8)["tokens"]}
    with pytest.raises(IndexError):
        small[50]


def test_random_words_are_those_of_philox():
    words = random_words(2**64 - 1, np.array([5, 0, 10**12]), 7)
    for row, index in zip(words, (5, 0, 10**12), strict=True):
        generator = np.random.Philox(key=(index << 64) + 2**64 - 1, counter=0)
        np.testing.assert_array_equal(row, generator.random_raw(7))


def test_choices_are_distinct_and_every_order_is_as_likely():
    chosen = choose(random_words(0, np.arange(24000), 3), 4)
    counts = np.bincount(chosen @ [16, 4, 1], minlength=64)
    assert (counts > 0).sum() == 24  # 4 * 3 * 2 orders of distinct numbers
    assert ((counts[counts > 0] - 1000) ** 2 / 1000).sum() < 60  # chi-squared, 23 degrees


def test_fingerprints_tell_tasks_counts_and_seeds_apart():
    sources = [GeneratedSequences(task, 10) for task in TASKS]
    sources += [GeneratedSequences(TASKS[0], 11), GeneratedSequences(TASKS[0], 10, 1)]
    assert len({source.fingerprint for source in sources}) == len(sources)
    assert GeneratedSequences(RepeatedSequences(16, 12), 10).fingerprint == sources[0].fingerprint


def test_sources_feed_the_pipeline():
    source = GeneratedSequences(TASKS[0], 10)
    batches = list(evaluation_batches(source, 4))
    assert [int(batch["mask"].sum()) for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(batches[1]["tokens"][2], source[6]["tokens"])


def period_of(row: np.ndarray) -> int:
    """Returns the shortest distance at which all of a row repeats."""
    return next(p for p in range(1, len(row)) if (row[p:] == row[:-p]).all())


def test_repeats_are_scored_from_the_second_token_of_the_copy_on():
    for row, scored in zip(*drawn(TASKS[0], 200).values(), strict=True):
        np.testing.assert_array_equal(row[:12], row[12:])
        np.testing.assert_array_equal(np.flatnonzero(scored), np.arange(12, 23))


def test_periods_vary_and_their_tokens_are_distinct():
    periods = []
    for row, scored in zip(*drawn(TASKS[2]).values(), strict=True):
        periods.append(period_of(row))
        assert len(set(row[: periods[-1]])) == periods[-1]
        np.testing.assert_array_equal(np.flatnonzero(scored), np.arange(periods[-1], 23))
    counts = np.bincount(periods, minlength=13)
    assert counts[:5].sum() == 0 and (np.abs(counts[5:] - COUNT / 8) < 5 * np.sqrt(COUNT / 8)).all()


def induction(batch: dict[str, np.ndarray]) -> np.ndarray:
    """Guesses what followed the last earlier occurrence of each token (b, context)."""
    tokens = batch["tokens"]
    guesses = np.full((len(tokens), tokens.shape[1] - 1), -1)
    for row, line in enumerate(tokens):
        last: dict[int, int] = {}
        for place, token in enumerate(line[:-1].tolist()):
            if token in last:
                guesses[row, place] = line[last[token] + 1]
            last[token] = place
    return guesses


def test_induction_solves_distinct_repeats_and_recall_exactly():
    for task in (TASKS[1], TASKS[2], TASKS[3], TASKS[4]):
        batch = drawn(task, 300)
        assert accuracy(batch, induction(batch)) == 1.0
    batch = drawn(TASKS[0], 300)
    assert 0.5 < accuracy(batch, induction(batch)) < 0.9  # tokens recur within a half


def test_a_fixed_distance_solves_repeats_of_one_period_only():
    for task, solved in ((TASKS[0], True), (TASKS[1], True), (TASKS[2], False)):
        batch = drawn(task, 300)
        guesses = np.roll(batch["tokens"], 11, 1)[:, :-1]
        assert (accuracy(batch, guesses) == 1.0) == solved


@pytest.mark.parametrize("task", TASKS[3:5], ids=str)
def test_recall_holds_pairs_then_queries_with_their_values(task):
    for row, scored in zip(*drawn(task, 500).values(), strict=True):
        keys, values = row[0:8:2], row[1:8:2]
        assert len(set(keys)) == len(set(values)) == 4
        assert ((keys >= 1) & (keys <= 20)).all() and ((values >= 21) & (values <= 50)).all()
        pairs = dict(zip(keys, values, strict=True))
        queries = np.flatnonzero(scored)
        assert len(queries) == task.asked and (queries >= 8).all() and (queries % 2 == 0).all()
        assert all(pairs[row[place]] == row[place + 1] for place in queries)
        rest = np.delete(row[8:], np.concatenate([queries, queries + 1]) - 8)
        assert ((rest >= 21) if task.noise else (rest == 0)).all()


def test_values_of_the_context_are_worth_one_in_pairs_whatever_the_rule():
    """Not yet given values, the value last given and the most frequent one are equally good."""
    task = AssociativeRecall(20, 30, pairs=4, queries=8, context=31)
    batch = drawn(task)
    guesses = np.zeros((3, COUNT, task.context), int)
    for row, line in enumerate(batch["tokens"]):
        values = line[1:8:2].tolist()
        given = [values[0]]
        for place in np.flatnonzero(batch["scored"][row]):
            fresh = [value for value in values if value not in given[1:]]
            often = max(values, key=given.count)
            guesses[:, row, place] = fresh[0] if fresh else values[0], given[-1], often
            given.append(int(line[place + 1]))
    for guess in guesses:
        guessed = accuracy(batch, guess)
        assert guessed == pytest.approx(task.guess_in_context, abs=margin(batch, 0.25))


def test_query_slots_follow_the_power_law():
    """The first slot drawn has the weights' shares; with power 1 all slots are alike."""
    for power in (0.01, 1.0):
        task = AssociativeRecall(8, 8, pairs=2, queries=1, context=23, power=power)
        places = drawn(task)["scored"].argmax(1)
        shares = np.bincount((places - 4) // 2, minlength=task.slots) / COUNT
        weights = np.arange(1.0, task.slots + 1) ** (power - 1)
        wanted = weights / weights.sum()
        assert (np.abs(shares - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / COUNT)).all()


@pytest.mark.parametrize("task", TASKS[5:], ids=str)
def test_copies_follow_the_mark(task):
    marks = []
    for row, scored in zip(*drawn(task, 1000).values(), strict=True):
        (mark,) = np.flatnonzero(row == 1)
        marks.append(mark)
        symbols, gap, tail = row[:5], row[5:mark], row[mark + 6 :]
        assert (symbols >= 2).all() and ((gap >= 2) if task.noise else (gap == 0)).all()
        np.testing.assert_array_equal(row[mark + 1 : mark + 6], symbols)
        assert (tail == 0).all()
        np.testing.assert_array_equal(np.flatnonzero(scored), mark + np.arange(5))
    assert set(marks) == set(range(7, 15) if task.shortest == 2 else [12])


@pytest.mark.parametrize("task", TASKS[5:], ids=str)
def test_one_of_the_copied_symbols_is_as_good_a_guess_as_stated(task):
    batch = drawn(task)
    picks = np.random.default_rng(0).integers(0, 5, (COUNT, task.context))
    guessed = accuracy(batch, np.take_along_axis(batch["tokens"], picks, 1))
    share = task.guess_in_context
    assert guessed == pytest.approx(share, abs=margin(batch, share))


@pytest.mark.parametrize(
    "task", [RepeatedSequences(64, 64), AssociativeRecall(context=127)], ids=str
)
def test_a_batch_takes_about_a_millisecond(task):
    source, indices = GeneratedSequences(task, 10**6), np.arange(32)
    times = []
    for _ in range(20):
        start = time.process_time()
        source.__getitems__(indices)
        times.append(time.process_time() - start)
    assert min(times) < 0.004


REFUSED: list[tuple[type, dict[str, Any], str]] = [
    (RepeatedSequences, {"vocabulary": 1}, "data.vocabulary is 1; expected an integer, 2 or more"),
    (RepeatedSequences, {"half_length": 2.5}, "data.half_length is 2.5; expected an integer, 2 or"),
    (RepeatedSequences, {"vocabulary": 8, "half_length": 9, "distinct": True},
     "data.vocabulary is 8; 9 distinct tokens want 9 or more"),
    (RepeatedSequences, {"shortest": 33, "distinct": True},
     "data.shortest is 33; expected an integer, 2 to 32"),
    (RepeatedSequences, {"shortest": 8},
     "data.shortest is 8 with half_length 32; periods that differ want data.distinct"),
    (AssociativeRecall, {"pairs": 0}, "data.pairs is 0; expected an integer, 1 or more"),
    (AssociativeRecall, {"keys": 7}, "data.keys is 7; expected an integer, 8 or more"),
    (AssociativeRecall, {"values": 7}, "data.values is 7; expected an integer, 8 or more"),
    (AssociativeRecall, {"queries": 0}, "data.queries is 0; expected an integer, 1 or more"),
    (AssociativeRecall, {"context": 30},
     "data.context is 30; 8 pairs and 8 queries want 31 or more"),
    (AssociativeRecall, {"power": 0}, "data.power is 0; expected a number greater than 0"),
    (AssociativeRecall, {"power": "1"}, "data.power is '1'; expected a number greater than 0"),
    (Copying, {"copied": 0}, "data.copied is 0; expected an integer, 1 or more"),
    (Copying, {"gap": -1}, "data.gap is -1; expected an integer, 0 or more"),
    (Copying, {"shortest": 65}, "data.shortest is 65; expected an integer, 0 to 64"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "settings", "message"), REFUSED)
def test_bad_settings_are_refused_in_one_line(task, settings, message):
    with pytest.raises(UserError, match=f"^{message}"):
        task(**settings)


def test_the_smallest_settings_work():
    smallest = [
        RepeatedSequences(2, 2), AssociativeRecall(1, 1, pairs=1, context=3),
        AssociativeRecall(context=31), Copying(2, 1, gap=0), Copying(2, 1, gap=1, shortest=0),
    ]  # fmt: skip
    for task in smallest:
        assert drawn(task, 5)["scored"].any(1).all()
        assert dataclasses.replace(task) == task
    with pytest.raises(UserError, match="data.count is 0; expected an integer, 1 or more"):
        GeneratedSequences(TASKS[0], 0)
