"""How alike two representations of the same examples are.

Every measure takes features (n, d) and (n, e) of n examples, centres their columns, and computes in
float64. None changes if one side is rotated or scaled as a whole; canonical correlations do not
change under any invertible linear map either.
"""

from typing import Literal

import numpy as np

Kernel = Literal["linear", "rbf"]


def rv_coefficient(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the RV coefficient, from 0 to 1 (Escoufier 1973; Robert and Escoufier 1976).

    trace(X X' Y Y') / sqrt(trace((X X')^2) trace((Y Y')^2)): the correlation of the two matrices of
    inner products. It is linear CKA without correction, and far from 0 for independent features
    where there are not many more examples than features: `cka(..., unbiased=True)` is not.

    Raises:
        ValueError: other shapes, numbers that are not finite, or features that do not vary.
    """
    return cka(x, y, unbiased=False)


def cka(
    x: np.ndarray,
    y: np.ndarray,
    kernel: Kernel = "linear",
    *,
    unbiased: bool = True,
    bandwidth: float = 1.0,
) -> float:
    """Returns the centred kernel alignment (Kornblith, Norouzi, Lee and Hinton 2019, section 3).

    Args:
        x: features of the examples.
        y: other features of the same examples.
        kernel: similarity of two examples, 'linear' (inner product) or 'rbf' (Gaussian).
        unbiased: estimate HSIC without bias (Song et al. 2012, equation 5), so that independent
            features give 0 on average, now and then less; needs four examples. Otherwise the
            result is from 0 to 1.
        bandwidth: standard deviation of the Gaussian in units of the median distance.

    Raises:
        ValueError: other shapes, an unknown kernel, too few examples, or features that do not vary.
    """
    x, y = _centred_pair(x, y)
    if unbiased and len(x) < 4:
        raise ValueError(f"{len(x)} examples; the unbiased estimate needs 4")
    if kernel not in ("linear", "rbf"):
        raise ValueError(f"kernel is {kernel!r}; choose 'linear' or 'rbf'")
    gram_x, gram_y = (
        z @ z.T if kernel == "linear" else _gaussian_gram(z, bandwidth) for z in (x, y)
    )
    hsic = _unbiased_hsic if unbiased else _biased_hsic
    return float(hsic(gram_x, gram_y) / np.sqrt(hsic(gram_x, gram_x) * hsic(gram_y, gram_y)))


def canonical_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the canonical correlations (Hotelling 1936), min(rank x, rank y) of them, falling.

    With as many features as examples all of them are 1, whatever the features mean: use `svcca`, or
    more examples.

    Raises:
        ValueError: other shapes, numbers that are not finite, or features that do not vary.
    """
    bases = [_basis(z, 1.0) for z in _centred_pair(x, y)]
    return np.clip(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False), 0.0, 1.0)


def svcca(x: np.ndarray, y: np.ndarray, variance: float = 0.99) -> float:
    """Returns the mean canonical correlation of what explains most variance of either side.

    Raghu, Gilmer, Yosinski and Sohl-Dickstein 2017: both sides are first reduced to the fewest
    principal components that hold a share `variance` of their variance.

    Raises:
        ValueError: other shapes, a share outside (0, 1], or features that do not vary.
    """
    if not 0 < variance <= 1:
        raise ValueError(f"variance is {variance}; expected a share above 0, up to 1")
    bases = [_basis(z, variance) for z in _centred_pair(x, y)]
    return float(np.clip(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False), 0, 1).mean())


def norm_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Returns Pearson's correlation between the lengths of the centred features of each example.

    Raises:
        ValueError: other shapes, numbers that are not finite, or lengths that do not vary.
    """
    lengths = [np.linalg.norm(z, axis=1) for z in _centred_pair(x, y)]
    if min(length.std() for length in lengths) <= 1e-12 * max(length.max() for length in lengths):
        raise ValueError("all examples have features of one length; there is nothing to correlate")
    return float(np.corrcoef(*lengths)[0, 1])


def feature_variance(x: np.ndarray) -> np.ndarray:
    """Returns the variance (d,) of each feature over the examples, with n - 1 in the denominator.

    Raises:
        ValueError: x is not (n, d) with two examples or more, or holds numbers that are not finite.
    """
    return _checked(x, "x").var(0, ddof=1)


def _centred_pair(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = _checked(x, "x"), _checked(y, "y")
    if len(x) != len(y):
        raise ValueError(f"{len(x)} examples in x and {len(y)} in y; expected the same ones")
    return _centred(x, "x"), _centred(y, "y")


def _checked(z: np.ndarray, name: str) -> np.ndarray:
    z = np.asarray(z, np.float64)
    if z.ndim != 2 or len(z) < 2:
        raise ValueError(f"{name} is {z.shape}; expected (n, d) with two examples or more")
    if not np.isfinite(z).all():
        raise ValueError(f"{name} has numbers that are not finite")
    return z


def _centred(z: np.ndarray, name: str) -> np.ndarray:
    centred = z - z.mean(0)
    if np.abs(centred).max(initial=0.0) <= 1e-12 * np.abs(z).max(initial=0.0):
        raise ValueError(f"{name} does not vary over the examples")
    return centred


def _gaussian_gram(z: np.ndarray, bandwidth: float) -> np.ndarray:
    squares = np.sum(z**2, 1)
    distances = np.maximum(squares[:, None] + squares[None] - 2 * z @ z.T, 0.0)
    median = np.median(distances[np.triu_indices(len(z), 1)])
    if median == 0:
        raise ValueError("more than half of all pairs of examples have the same features")
    return np.exp(-distances / (2 * bandwidth**2 * median))


def _biased_hsic(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (g - g.mean(0) - g.mean(1)[:, None] + g.mean() for g in (a, b))
    return float(np.vdot(a, b))


def _unbiased_hsic(a: np.ndarray, b: np.ndarray) -> float:
    n = len(a)
    a, b = a - np.diag(np.diag(a)), b - np.diag(np.diag(b))
    pairs = np.vdot(a, b)
    sums = a.sum() * b.sum() / ((n - 1) * (n - 2))
    return float(pairs + sums - 2 * a.sum(0) @ b.sum(0) / (n - 2))


def _basis(z: np.ndarray, variance: float) -> np.ndarray:
    """Returns orthonormal columns, coordinates of the examples along principal components."""
    u, sizes, _ = np.linalg.svd(z, full_matrices=False)
    rank = int(np.sum(sizes > sizes[0] * max(z.shape) * np.finfo(np.float64).eps))
    shares = np.cumsum(sizes[:rank] ** 2) / np.sum(sizes[:rank] ** 2)
    return u[:, : int(np.searchsorted(shares, variance - 1e-12)) + 1]
