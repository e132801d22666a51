"""Spectral radii and gains of matrices whose eigenvalues are known."""

import numpy as np
import pytest

from common.analysis import by_radius, joint_gain, radial_frequencies, spectral_radius


def test_the_radius_is_that_of_the_eigenvalues_that_went_in():
    rng = np.random.default_rng(0)
    values = rng.uniform(0.2, 1.4, (5, 4, 3)) * np.exp(1j * rng.uniform(0, 6.3, (5, 4, 3)))
    bases = rng.standard_normal((5, 4, 3, 3)) + 1j * rng.standard_normal((5, 4, 3, 3))
    matrices = bases @ (values[..., None] * np.linalg.inv(bases))
    np.testing.assert_allclose(spectral_radius(matrices), np.abs(values).max(-1), rtol=1e-9)
    np.testing.assert_allclose(spectral_radius(values[..., None, None]), np.abs(values))


def test_the_radius_does_not_bound_a_product_and_the_gain_does():
    """(0 2; 0 0) and (0 0; 2 0) have radius 0, and taken in turn they double the state."""
    matrices = np.array([[[0.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [2.0, 0.0]]] * 3)
    np.testing.assert_allclose(spectral_radius(matrices), 0.0)
    assert joint_gain(matrices) == pytest.approx(2.0)
    angle = 0.3
    turn = 0.9 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert joint_gain(np.stack([turn] * 7)) == pytest.approx(0.9)


def test_rings_of_frequencies():
    radius = radial_frequencies(6, 8)
    assert radius.shape == (6, 5)
    assert radius[3, 4] == pytest.approx(np.sqrt(0.5))
    assert radius[5, 0] == radius[1, 0] == pytest.approx(1 / 6)
    centres, groups = by_radius(np.stack([radius, -radius], -1), 8, bins=4)
    assert sum(map(len, groups)) == 2 * radius.size
    for centre, group in zip(centres, groups, strict=True):
        assert np.abs(group).mean() == pytest.approx(centre)
        assert np.ptp(np.abs(group)) <= np.sqrt(0.5) / 4 + 1e-12
