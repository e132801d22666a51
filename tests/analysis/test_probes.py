import numpy as np
import pytest

from common.analysis import linear_probe, logistic_regression


def test_gradient_vanishes_at_the_fit_and_weights_are_recovered():
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, (20_000, 2))
    true = 1.5 * x[:, 0] - 0.5 * x[:, 1] - 2.0
    y = rng.random(len(x)) < 1 / (1 + np.exp(-true))
    model = logistic_regression(x, y, penalty=0.0)
    residual = model.probability(x) - y
    np.testing.assert_allclose(np.r_[residual.mean(), x.T @ residual / len(x)], 0, atol=1e-9)
    np.testing.assert_allclose(model.weights / model.scale, [1.5, -0.5], atol=0.07)


def test_a_cube_separates_a_band_that_a_line_cannot():
    distance = np.linspace(-2, 2, 401)
    label = np.abs(distance) < 0.7
    accuracy = {}
    for degree in (1, 3):
        features = distance[:, None] ** np.arange(1, degree + 1)
        model = logistic_regression(features, label)
        accuracy[degree] = np.mean((model.probability(features) > 0.5) == label)
    assert accuracy[1] < 0.7
    assert accuracy[3] > 0.99


def test_separable_constant_and_one_sided_data_stay_finite():
    x = np.array([[-1.0, 7.0], [-0.5, 7.0], [0.5, 7.0], [1.0, 7.0]])
    separable = logistic_regression(x, np.array([0, 0, 1, 1]))
    assert np.isfinite(separable.weights).all()
    assert (np.round(separable.probability(x)) == [0, 0, 1, 1]).all()
    one_sided = logistic_regression(x, np.ones(4))
    assert (one_sided.probability(x) > 0.99).all()


def test_a_fit_whose_plain_newton_steps_run_away():
    rows = "-2.0 0.1 -1.1, -9.5 0.6 3.8, 0.2 -1.0 1.8, 4.5 0.3 1.0, -0.8 0.0 -0.7, 3.1 -16.6 7.6"
    x = np.array([[float(number) for number in row.split()] for row in rows.split(",")])
    y = np.array([0, 1, 1, 0, 1, 1])
    model = logistic_regression(x, y)
    assert abs(model.intercept) < 1e4
    np.testing.assert_array_equal(model.probability(x) > 0.5, y == 1)


def test_answers_are_counted_on_examples_left_out():
    rng = np.random.default_rng(0)
    noise, labels = rng.normal(size=(400, 100)), rng.integers(0, 2, 400)
    fitted = logistic_regression(noise, labels).probability(noise) > 0.5
    assert np.mean(fitted == labels) > 0.65
    score = linear_probe(noise, labels)
    assert score.count == 400 and score.accuracy == score.correct / 400
    assert 0.4 < score.accuracy < 0.6
    assert score.low < score.accuracy < score.high < score.low + 0.11
    told = noise[:, :1] + 2 * labels[:, None]
    assert linear_probe(told, labels).low > 0.8


def test_pairs_stay_together():
    """Apart, a pair's other half gives the opposite answer: far below chance."""
    rng = np.random.default_rng(0)
    pairs, labels = np.repeat(rng.normal(size=(100, 60)), 2, 0), np.tile([1, 0], 100)
    assert linear_probe(pairs, labels).accuracy < 0.4
    assert linear_probe(pairs, labels, group=2).accuracy == 0.5
    with pytest.raises(ValueError, match="4 groups of 2 examples for 10 folds"):
        linear_probe(pairs[:8], labels[:8], group=2)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.zeros(3), np.zeros(3), "expected"),
        (np.zeros((3, 1)), np.zeros(2), "expected"),
        (np.zeros((0, 1)), np.zeros(0), "expected"),
        (np.zeros((3, 1)), np.array([0, 1, 2]), "other than 0 and 1"),
    ],
)
def test_bad_input_raises(features, labels, message):
    with pytest.raises(ValueError, match=message):
        logistic_regression(features, labels)
