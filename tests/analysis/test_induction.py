"""Scores of heads and losses, against loops and heads whose score is known."""

import numpy as np
import pytest

from common import analysis

RNG = np.random.default_rng(0)
BATCH, HEADS, LENGTH, LAYERS = 3, 2, 14, 2
TOKENS = RNG.integers(0, 5, (BATCH, LENGTH))


def causal_weights(*shape: int) -> np.ndarray:
    raw = np.tril(RNG.random((*shape, LENGTH, LENGTH)))
    return raw / raw.sum(-1, keepdims=True)


WEIGHTS = causal_weights(LAYERS, BATCH, HEADS)


def last_before(row: np.ndarray, i: int) -> int:
    return max((p for p in range(i) if row[p] == row[i]), default=-1)


def heads_at(tokens: np.ndarray, offset: int) -> np.ndarray:
    """Returns weights (b, 1, t, t) of a head that looks there, or at the first token otherwise."""
    weights = np.zeros((len(tokens), 1, tokens.shape[1], tokens.shape[1]))
    for b, row in enumerate(tokens):
        for i in range(len(row)):
            p = last_before(row, i)
            place = p + offset if p >= 0 and 0 <= p + offset <= i else 0
            weights[b, 0, i, place] = 1
    return weights


def test_previous_occurrences_are_the_last_ones_before():
    wanted = [[last_before(row, i) for i in range(LENGTH)] for row in TOKENS]
    np.testing.assert_array_equal(analysis.previous_occurrence(TOKENS), wanted)


@pytest.mark.parametrize("chosen", [None, RNG.random((BATCH, LENGTH)) < 0.5], ids=["all", "some"])
def test_attention_by_offset_is_a_mean_over_queries(chosen):
    offsets = (-3, 0, 1, 2, 12)
    got = analysis.attention_by_offset(WEIGHTS, TOKENS, offsets, chosen)
    assert got.shape == (LAYERS, HEADS, 5) and got.dtype == np.float64
    for layer in range(LAYERS):
        for head in range(HEADS):
            for number, offset in enumerate(offsets):
                seen = []
                for b, row in enumerate(TOKENS):
                    for i in range(LENGTH):
                        p = last_before(row, i)
                        if p >= 0 and 0 <= p + offset <= i and (chosen is None or chosen[b, i]):
                            seen.append(WEIGHTS[layer, b, head, i, p + offset])
                wanted = np.mean(seen) if seen else np.nan
                np.testing.assert_allclose(got[layer, head, number], wanted, rtol=1e-12)


def test_a_stripe_is_found_at_its_offset():
    tokens = np.tile(np.stack([RNG.permutation(40)[:7] for _ in range(BATCH)]), (1, 2))
    for offset in (-1, 0, 1, 2, 4):
        profile = analysis.attention_by_offset(heads_at(tokens, offset), tokens)[0]
        assert profile[list(range(-2, 8)).index(offset)] == 1.0
        assert np.delete(profile, offset + 2).max() < 0.2
    assert analysis.induction_score(heads_at(tokens, 1), tokens) == 1.0
    assert analysis.induction_score(heads_at(tokens, 2), tokens) < 0.2


def test_the_induction_score_is_the_profile_at_one():
    profile = analysis.attention_by_offset(WEIGHTS, TOKENS)
    np.testing.assert_array_equal(analysis.induction_score(WEIGHTS, TOKENS), profile[..., 3])


def test_without_a_repeat_there_is_no_score():
    tokens = np.arange(BATCH * LENGTH).reshape(BATCH, LENGTH)
    assert np.isnan(analysis.attention_by_offset(WEIGHTS, tokens)).all()
    assert np.isnan(analysis.prefix_matching_score(WEIGHTS, tokens)).all()


def test_prefix_matching_adds_up_all_earlier_continuations():
    got = analysis.prefix_matching_score(WEIGHTS, TOKENS)
    for layer in range(LAYERS):
        for head in range(HEADS):
            sums = []
            for b, row in enumerate(TOKENS):
                for i in range(LENGTH):
                    earlier = [p for p in range(i) if row[p] == row[i]]
                    if earlier:
                        sums.append(sum(WEIGHTS[layer, b, head, i, p + 1] for p in earlier))
            np.testing.assert_allclose(got[layer, head], np.mean(sums), rtol=1e-12)


def test_prefix_matching_is_whole_where_a_head_splits_itself():
    tokens = np.tile(RNG.permutation(40)[:5], (1, 4))
    weights = np.zeros((1, 1, 20, 20))
    for i in range(20):
        places = [p + 1 for p in range(i) if tokens[0, p] == tokens[0, i]] or [0]
        weights[0, 0, i, places] = 1 / len(places)
    assert analysis.prefix_matching_score(weights, tokens) == pytest.approx(1.0)
    assert analysis.induction_score(weights, tokens) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    scored = np.zeros((1, 20), bool)
    scored[0, 7] = True
    assert analysis.induction_score(weights, tokens, scored) == 1.0


def test_previous_token_heads():
    got = analysis.previous_token_score(WEIGHTS)
    for layer in range(LAYERS):
        for head in range(HEADS):
            wanted = np.mean(
                [WEIGHTS[layer, b, head, i, i - 1] for b in range(BATCH) for i in range(1, LENGTH)]
            )
            np.testing.assert_allclose(got[layer, head], wanted, rtol=1e-12)
    before = np.eye(LENGTH, k=-1)
    before[0, 0] = 1
    assert analysis.previous_token_score(before[None, None]) == 1.0
    assert analysis.previous_token_score(np.eye(LENGTH)[None, None]) == 0.0


def test_sums_are_in_double_precision():
    single = WEIGHTS.astype(np.float32)
    for score in (analysis.induction_score, analysis.prefix_matching_score):
        got, wanted = score(single, TOKENS), score(single.astype(np.float64), TOKENS)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, wanted, rtol=1e-13)
    wanted = analysis.previous_token_score(single.astype(np.float64))
    np.testing.assert_allclose(analysis.previous_token_score(single), wanted, rtol=1e-13)


def circuit(v=30, d=8, heads=3, k=4):
    shapes = ((v, d), (d, heads, k), (heads, k, d), (d, v))
    return [RNG.standard_normal(shape) for shape in shapes]


def test_eigenvalues_are_those_of_the_whole_map():
    embedding, value, output, unembedding = matrices = circuit()
    got = analysis.ov_eigenvalues(*matrices)
    for head in range(3):
        whole = embedding @ value[:, head] @ output[head] @ unembedding
        eigenvalues = np.linalg.eigvals(whole)
        largest = eigenvalues[np.argsort(-np.abs(eigenvalues))][:4]
        np.testing.assert_allclose(np.sort_complex(got[head]), np.sort_complex(largest), rtol=1e-6)
        share = eigenvalues.real.sum() / np.abs(eigenvalues).sum()
        np.testing.assert_allclose(analysis.copying_score(*matrices)[head], share, rtol=1e-6)


def test_copying_strength_is_the_rise_of_the_attended_logit():
    embedding, value, output, unembedding = matrices = circuit()
    got = analysis.copying_strength(*matrices)
    for head in range(3):
        whole = embedding @ value[:, head] @ output[head] @ unembedding
        rises = [(row[token] - row.mean()) / row.std() for token, row in enumerate(whole)]
        np.testing.assert_allclose(got[head], np.mean(rises), rtol=1e-9)


def test_heads_that_copy_and_heads_that_suppress():
    embedding = RNG.standard_normal((200, 16))
    value = RNG.standard_normal((16, 2, 8))
    output = np.stack([value[:, 0].T, -value[:, 1].T])
    matrices = embedding, value, output, embedding.T
    np.testing.assert_allclose(analysis.copying_score(*matrices), [1, -1], atol=1e-9)
    strength = analysis.copying_strength(*matrices)
    assert strength[0] > 1.5 and strength[1] < -1.5
    unrelated = analysis.copying_strength(*circuit(2000, 32, 4, 16))
    assert np.abs(unrelated).max() < 5 / np.sqrt(2000)


def test_in_context_learning_compares_two_numbers_of_tokens():
    losses = RNG.random((4, 600))
    wanted = np.mean([row[499] - row[49] for row in losses])
    assert analysis.in_context_learning_score(losses) == pytest.approx(wanted, rel=1e-12)
    assert analysis.in_context_learning_score(losses, 1, 600) == pytest.approx(
        (losses[:, -1] - losses[:, 0]).mean(), rel=1e-12
    )


def test_losses_of_repeats_leave_the_first_repeated_token_out():
    losses = np.array([[1.0, 3.0, 100.0, 5.0, 7.0], [2.0, 4.0, 100.0, 6.0, 8.0]])
    assert analysis.repeat_losses(losses, 3) == (2.5, 6.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: analysis.induction_score(WEIGHTS[0, 0], TOKENS), r"weights are \(2, 14, 14\)"),
        (lambda: analysis.induction_score(WEIGHTS[..., :-1], TOKENS), r"expected \(\*l, b, heads"),
        (lambda: analysis.previous_token_score(np.ones((1, 1, 1, 1))), "t of 2 or more"),
        (
            lambda: analysis.induction_score(WEIGHTS, TOKENS[:, :-1]),
            r"tokens is \(3, 13\); expected \(3, 14\), as weights tell",
        ),
        (
            lambda: analysis.prefix_matching_score(WEIGHTS, TOKENS, TOKENS[0] > 0),
            r"where is \(14,\); expected \(3, 14\)",
        ),
        (
            lambda: analysis.copying_score(*circuit()[:3], np.ones((8, 31))),
            r"shapes are \(30, 8\), \(8, 3, 4\), \(3, 4, 8\), \(8, 31\); expected \(v, d\)",
        ),
        (lambda: analysis.copying_score(*circuit()[:3], np.ones(8)), r"\(8,\); expected \(v, d\)"),
        (
            lambda: analysis.in_context_learning_score(np.ones((2, 499))),
            "early is 50 and late 500; expected 1 <= early < late <= 499, the predictions in a row",
        ),
        (lambda: analysis.in_context_learning_score(np.ones((2, 9)), 4, 4), "early is 4 and late"),
        (lambda: analysis.in_context_learning_score(np.ones(9)), r"losses are \(9,\); expected"),
        (
            lambda: analysis.repeat_losses(np.ones((2, 6)), 3),
            r"6 losses in a row and half 3; expected 2 \* half - 1 of them, half 2 or more",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
