"""Measures of similarity against their definitions, and where they must not change."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from common.analysis import (
    canonical_correlations,
    cka,
    feature_variance,
    norm_correlation,
    rv_coefficient,
    svcca,
)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def rotation(d: int) -> np.ndarray:
    return np.linalg.qr(normal(d, d, seed=7))[0]


MEASURES: dict[str, Callable[..., Any]] = {
    "rv": rv_coefficient,
    "cka": cka,
    "cka rbf": functools.partial(cka, kernel="rbf"),
    "cka rbf biased": functools.partial(cka, kernel="rbf", unbiased=False),
    "svcca": svcca,
    "norms": norm_correlation,
}
each_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


@each_measure
def test_one_for_a_rotated_scaled_and_shifted_copy(measure: Callable[..., Any]) -> None:
    x = normal(40, 5) * [1, 2, 3, 4, 5]
    assert measure(x, -3 * x @ rotation(5) + 2) == pytest.approx(1.0)


@each_measure
def test_symmetric_and_blind_to_rotation(measure: Callable[..., Any]) -> None:
    x = normal(40, 5)
    y = x[:, :3] ** 2 + 0.5 * normal(40, 3, seed=1)
    value = measure(x, y)
    assert -0.2 < value < 0.9
    assert measure(y, x) == pytest.approx(value)
    assert measure(x @ rotation(5), 2 * y @ rotation(3) - 1) == pytest.approx(value)


def test_rv_is_the_definition() -> None:
    x, y = normal(20, 4), normal(20, 3, seed=1)
    x, y = x - x.mean(0), y - y.mean(0)
    a, b = x @ x.T, y @ y.T
    expected = np.trace(a @ b) / np.sqrt(np.trace(a @ a) * np.trace(b @ b))
    assert rv_coefficient(x, y) == pytest.approx(expected)


def test_unbiased_cka_is_the_definition_and_zero_on_average() -> None:
    """Song et al. 2012, equation 5, with its matrices of ones."""
    x, y = normal(8, 3), normal(8, 2, seed=1)

    def hsic(a, b):
        n, ones = len(a), np.ones((len(a), 1))
        a, b = a * (1 - np.eye(n)), b * (1 - np.eye(n))
        terms = np.trace(a @ b)
        terms += (ones.T @ a @ ones * (ones.T @ b @ ones)).item() / ((n - 1) * (n - 2))
        terms -= 2 / (n - 2) * (ones.T @ a @ b @ ones).item()
        return terms / (n * (n - 3))

    a, b = x @ x.T, y @ y.T
    expected = hsic(a, b) / np.sqrt(hsic(a, a) * hsic(b, b))
    assert cka(x, y) == pytest.approx(expected)
    pairs = [(normal(30, 20, seed=s), normal(30, 20, seed=1000 + s)) for s in range(100)]
    assert abs(np.mean([cka(x, y) for x, y in pairs])) < 0.02
    assert np.mean([rv_coefficient(x, y) for x, y in pairs]) > 0.35


def test_gaussian_cka_of_four_points_by_hand() -> None:
    """Distances 1 and 2 on a line of points 0, 1, 2, 3; the median of the squares is 1.5^2..."""
    x = np.array([[0.0], [1.0], [2.0], [3.0]])
    y = np.array([[0.0], [1.0], [0.0], [1.0]])
    squares = (x - x.T) ** 2
    median = np.median([1, 4, 9, 1, 4, 1])
    gram = np.exp(-squares / (2 * median))
    other = np.exp(-((y - y.T) ** 2) / (2 * np.median([1, 0, 1, 1, 0, 1])))
    centre = np.eye(4) - 0.25
    a, b = centre @ gram @ centre, centre @ other @ centre
    expected = np.trace(a @ b) / np.sqrt(np.trace(a @ a) * np.trace(b @ b))
    assert cka(x, y, "rbf", unbiased=False) == pytest.approx(expected)


def test_canonical_correlations_maximise_correlation() -> None:
    """Known by construction; blind to any invertible map of either side."""
    u = np.linalg.qr(normal(200, 5) - normal(200, 5).mean(0))[0]
    u, _ = np.linalg.qr(u - u.mean(0))
    x = u[:, :2]
    y = np.stack([0.8 * u[:, 0] + 0.6 * u[:, 2], 0.3 * u[:, 1] + np.sqrt(0.91) * u[:, 3]], 1)
    mixing = np.array([[1.0, 2.0], [0.5, -3.0]])
    np.testing.assert_allclose(canonical_correlations(x @ mixing, y), [0.8, 0.3], atol=1e-9)
    rank_one = np.concatenate([x[:, :1], 2 * x[:, :1]], 1)
    np.testing.assert_allclose(canonical_correlations(rank_one, y), [0.8], atol=1e-9)
    np.testing.assert_allclose(canonical_correlations(normal(5, 9), normal(5, 7)), 1.0)


def test_svcca_leaves_out_what_explains_little() -> None:
    signal, x_noise, y_noise = normal(300, 2), normal(300, 30, seed=1), normal(300, 30, seed=2)
    x = np.concatenate([10 * signal, 0.1 * x_noise], 1)
    y = np.concatenate([10 * signal @ rotation(2), 0.1 * y_noise], 1)
    assert svcca(x, y) > 0.999
    assert svcca(x, y, variance=1.0) < 0.5


def test_norms_and_variances() -> None:
    x = normal(50, 4)
    lengths = np.linalg.norm(x - x.mean(0), axis=1)
    y = normal(50, 3, seed=1)
    others = np.linalg.norm(y - y.mean(0), axis=1)
    assert norm_correlation(x, y) == pytest.approx(np.corrcoef(lengths, others)[0, 1])
    np.testing.assert_allclose(feature_variance(2 * x + 1), 4 * np.var(x, axis=0, ddof=1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cka(normal(5, 2), normal(6, 2)), "5 examples in x and 6 in y"),
        (lambda: cka(normal(5), normal(5, 2)), r"x is \(5,\); expected \(n, d\)"),
        (lambda: cka(normal(3, 2), normal(3, 2)), "3 examples; the unbiased estimate needs 4"),
        (lambda: cka(normal(5, 2), np.ones((5, 2))), "y does not vary"),
        (lambda: cka(normal(5, 2), normal(5, 2), "cosine"), "choose 'linear' or 'rbf'"),
        (lambda: rv_coefficient(normal(5, 2), np.full((5, 1), np.nan)), "y has numbers that"),
        (lambda: svcca(normal(5, 2), normal(5, 2), 1.5), "variance is 1.5; expected a share"),
        (lambda: norm_correlation(np.array([[1.0], [-1.0]]), normal(2, 2)), "of one length"),
        (lambda: feature_variance(normal(1, 2)), r"x is \(1, 2\)"),
    ],
)
def test_refusals(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
