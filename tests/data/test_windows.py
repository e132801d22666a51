"""Windows of tokens score every target once."""

import numpy as np
import pytest

from common.data.pipeline import evaluation_batches, gather, training_batches
from common.data.windows import TokenWindows
from common.errors import UserError

TOKENS = np.random.default_rng(0).integers(0, 1000, 57).astype(np.uint16)
CASES = [
    (tokens, context, stride)
    for tokens in (2, 3, 9, 10, 11, 56, 57)
    for context, stride in ((1, 1), (4, 4), (4, 3), (4, 1), (9, 5), (100, 7), (56, 56), (57, 1))
]


def windows_in_loops(tokens: np.ndarray, context: int, stride: int) -> list[tuple[list, list]]:
    """Walks along the text: each window begins `stride` on and scores what is not scored yet."""
    windows, start, done = [], 0, 0  # tokens up to number `done` are scored as targets
    while True:
        row, scored = [], []
        for place in range(start, start + context + 1):
            row.append(int(tokens[min(place, len(tokens) - 1)]))
            if place > start:
                scored.append(done < place < len(tokens))
        windows.append((row, scored))
        done = start + context
        if done >= len(tokens) - 1:
            return windows
        start += stride


@pytest.mark.parametrize(("count", "context", "stride"), CASES)
def test_windows_are_those_of_the_definition(count, context, stride):
    source = TokenWindows(TOKENS[:count], context, stride)
    wanted = windows_in_loops(TOKENS[:count], context, stride)
    assert len(source) == len(wanted)
    batch = gather(source, np.arange(len(source)))
    assert (batch["tokens"].dtype, batch["scored"].dtype) == (np.int32, np.bool_)
    np.testing.assert_array_equal(batch["tokens"], [row for row, _ in wanted])
    np.testing.assert_array_equal(batch["scored"], [scored for _, scored in wanted])


@pytest.mark.parametrize(("count", "context", "stride"), CASES)
def test_every_token_but_the_first_is_scored_once_with_enough_before_it(count, context, stride):
    numbered = np.arange(count, dtype=np.int32)
    source = TokenWindows(numbered, context, stride)
    seen = []
    for window in range(len(source)):
        example = source[window]
        targets = example["tokens"][1:][example["scored"]]
        for target in targets:
            before = target - example["tokens"][0]
            assert before >= min(target, context - stride + 1)
        seen += targets.tolist()
    assert seen == list(range(1, count))
    assert source.targets == count - 1


def test_the_default_does_not_overlap():
    source = TokenWindows(TOKENS, 8)
    assert (source.context, source.stride, len(source)) == (8, 8, 7)
    np.testing.assert_array_equal(source[1]["tokens"], TOKENS[8:17])
    assert source[1]["scored"].all()


def test_one_example_is_a_row_of_the_batch():
    source = TokenWindows(TOKENS, 8, 3)
    batch = source.__getitems__(np.array([4, 0, 4, len(source) - 1]))
    for row, index in enumerate((4, 0, 4, -1)):
        example = source[index]
        assert example["tokens"].shape == (9,) and example["scored"].shape == (8,)
        for name, array in example.items():
            np.testing.assert_array_equal(batch[name][row], array)
    with pytest.raises(IndexError):
        source[len(source)]


def test_batches_of_the_pipeline_hold_windows():
    source = TokenWindows(TOKENS, 8)
    evaluated = list(evaluation_batches(source, 4))
    assert sum(int(batch["scored"][batch["mask"]].sum()) for batch in evaluated) == 56
    stream = training_batches(source, 7, seed=0)
    assert sorted(next(stream)["tokens"][:, 0].tolist()) == sorted(TOKENS[:56:8].tolist())
    stream.close()


def test_mapped_tokens_are_read_in_place(tmp_path):
    np.save(tmp_path / "x.npy", TOKENS)
    mapped = TokenWindows(np.load(tmp_path / "x.npy", mmap_mode="r"), 8, 3)
    held = TokenWindows(TOKENS, 8, 3)
    np.testing.assert_array_equal(mapped[2]["tokens"], held[2]["tokens"])
    assert (
        mapped.fingerprint == held.fingerprint == TokenWindows(TOKENS.astype(int), 8, 3).fingerprint
    )


def test_the_fingerprint_changes_with_tokens_and_settings():
    changed = TOKENS.copy()
    changed[-1] ^= 1
    sources = [
        TokenWindows(TOKENS, 8), TokenWindows(TOKENS, 8, 4), TokenWindows(TOKENS, 9, 8),
        TokenWindows(TOKENS[:-1], 8), TokenWindows(changed, 8),
    ]  # fmt: skip
    assert len({source.fingerprint for source in sources}) == len(sources)


@pytest.mark.parametrize(
    ("tokens", "context", "stride", "message"),
    [
        (TOKENS[:1], 4, None, "1 tokens; expected 2 or more, as each predicts the next"),
        (TOKENS[None], 4, None, r"tokens are uint16 \(1, 57\); expected integers \(n,\)"),
        (TOKENS / 2, 4, None, r"tokens are float64 \(57,\); expected integers"),
        (TOKENS, 0, None, "data.context is 0; expected an integer, 1 or more"),
        (TOKENS, 4.0, None, "data.context is 4.0; expected an integer"),
        (TOKENS, True, None, "data.context is True; expected an integer"),
        (TOKENS, 4, 0, "data.stride is 0; expected an integer, 1 to 4"),
        (TOKENS, 4, 5, "data.stride is 5; expected an integer, 1 to 4"),
    ],
)
def test_bad_arguments_are_refused(tokens, context, stride, message):
    with pytest.raises(UserError, match=f"^{message}"):
        TokenWindows(tokens, context, stride)
