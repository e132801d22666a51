"""Linear probes: what can be read off features of examples by a logistic regression.

The features may be those of a model, or made by hand: what a task gives away without any model.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from common.train import wilson_interval


@dataclasses.dataclass(frozen=True)
class LogisticModel:
    """P(label = 1) = sigmoid(weights . (features - centre) / scale + intercept).

    Attributes:
        centre: (d,) mean of the features that it was fitted to.
        scale: (d,) their standard deviation; 1 where a feature is constant.
        weights: (d,).
        intercept: a number.
    """

    centre: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: float

    def probability(self, features: np.ndarray) -> np.ndarray:
        """Returns P(label = 1) (n,) for features (n, d)."""
        return _sigmoid(
            (np.asarray(features, np.float64) - self.centre) / self.scale @ self.weights
            + self.intercept
        )


def logistic_regression(
    features: np.ndarray, labels: np.ndarray, penalty: float = 1e-6, steps: int = 50
) -> LogisticModel:
    """Fits a logistic regression by Newton's method in float64.

    Args:
        features: (n, d); standardised before the fit.
        labels: (n,) of 0 and 1.
        penalty: weight of |weights|^2 / 2 against the mean loss; keeps separable data finite.
        steps: largest number of Newton steps.

    Raises:
        ValueError: the shapes do not fit or there is a label other than 0 and 1.
    """
    x, y = np.asarray(features, np.float64), np.asarray(labels, np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or not len(y):
        raise ValueError(f"features are {x.shape} and labels {y.shape}; expected (n, d) and (n,)")
    if not np.isin(y, (0, 1)).all():
        raise ValueError("labels other than 0 and 1")
    centre, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    design = np.concatenate([(x - centre) / scale, np.ones((len(x), 1))], 1)
    penalties = np.full(design.shape[1], penalty)
    penalties[-1] = 0.0 if 0 < y.mean() < 1 else penalty
    w = _newton(design, y, penalties, steps)
    return LogisticModel(centre, scale, w[:-1], float(w[-1]))


class ProbeScore(NamedTuple):
    """Accuracy of a probe on examples that it was not fitted to.

    Attributes:
        accuracy: share of right answers.
        low: lower end of its 95 % Wilson interval.
        high: upper end.
        correct: right answers.
        count: answers in all.
    """

    accuracy: float
    low: float
    high: float
    correct: int
    count: int


def linear_probe(
    features: np.ndarray,
    labels: np.ndarray,
    folds: int = 10,
    seed: int = 0,
    group: int = 1,
    penalty: float = 1e-4,
) -> ProbeScore:
    """Scores logistic regressions by cross-validation.

    The interval takes the answers for independent; the folds share most of their training examples,
    so that it is somewhat too narrow.

    Args:
        features: (n, d).
        labels: (n,) of 0 and 1.
        folds: parts that take turns in being left out.
        seed: deals the examples out.
        group: so many consecutive examples stay together. Pairs that differ in little but their
            label would otherwise push the accuracy below chance.
        penalty: see `logistic_regression`.

    Raises:
        ValueError: fewer groups than folds, or what `logistic_regression` refuses.
    """
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    groups = -(-len(labels) // group)
    if groups < folds:
        raise ValueError(f"{groups} groups of {group} examples for {folds} folds")
    fold_of = np.random.default_rng(seed).permutation(groups) % folds
    fold_of = np.repeat(fold_of, group)[: len(labels)]
    correct = 0
    for fold in range(folds):
        held_out = fold_of == fold
        model = logistic_regression(features[~held_out], labels[~held_out], penalty)
        answers = model.probability(features[held_out]) > 0.5
        correct += int((answers == (labels[held_out] == 1)).sum())
    count = len(labels)
    return ProbeScore(correct / count, *wilson_interval(correct, count), correct, count)


def _newton(x: np.ndarray, y: np.ndarray, penalties: np.ndarray, steps: int) -> np.ndarray:
    """Minimises the penalised loss; a step that would raise it is halved until it does not."""

    def loss(w: np.ndarray) -> float:
        z = x @ w
        return float(np.mean(np.logaddexp(0.0, z) - y * z) + 0.5 * np.sum(penalties * w**2))

    w = np.zeros(x.shape[1])
    for _ in range(steps):
        p = _sigmoid(x @ w)
        gradient = x.T @ (p - y) / len(y) + penalties * w
        hessian = (x * (p * (1 - p))[:, None]).T @ x / len(y) + np.diag(penalties + 1e-12)
        step = np.linalg.solve(hessian, gradient)
        while loss(w - step) > loss(w) and np.abs(step).max() > 1e-10:
            step = step / 2
        w = w - step
        if np.abs(step).max() < 1e-10:
            break
    return w


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -z))
