"""The reference layout against what was measured on images of the public generator.

Public figures: 200 positive and 200 negative images of each length, or, where markers and touching
contours are concerned, 1,200, 1,037 and 778 images of lengths 6, 9 and 14. Here: COUNT images each.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import pytest
from scipy import ndimage, stats

from common.analysis import linear_probe
from common.data.pathfinder import PathfinderSettings, draw_images, draw_scene
from common.data.pathfinder.stamps import Stamps, make_stamps

COUNT = 1_000
CLEARANCES = 300  # images
DISTANCES = 8_000  # images
SEED = 1
SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class Public(NamedTuple):
    """Measured on the public generator's images; `near` and `touching` are shares of images."""

    paddles: int
    lit: float
    mean: float
    nonzero: float
    white: float
    end_to_end: float
    end_to_end_deviation: float
    positive: tuple[int, tuple[int, ...]]  # images, quantiles SHARES of their marker distance
    negative: tuple[int, tuple[int, ...]]
    components: float
    near: float
    touching: float
    accuracy: float


PUBLIC = {
    6: Public(
        42, 0.00648, 0.00669, 0.0219, 0.0020, 56.9, 4.2,
        (600, (43, 50, 54, 57, 60, 63, 67)), (600, (16, 31, 46, 63, 78, 86, 93)),
        41.8, 0.06, 0.05, 0.86,
    ),
    9: Public(
        63, 0.00893, 0.00928, 0.0316, 0.0027, 85.4, 8.0,
        (516, (40, 69, 81, 87, 92, 97, 101)), (521, (36, 58, 75, 91, 105, 118, 128)),
        62.9, 0.06, 0.04, 0.75,
    ),
    14: Public(
        88, 0.01186, 0.01235, 0.0431, 0.0035, 128.0, 17.0,
        (392, (55, 94, 121, 132, 141, 150, 157)), (386, (43, 87, 114, 131, 149, 167, 176)),
        87.8, 0.08, 0.06, 0.625,
    ),
}  # fmt: skip

each_length = pytest.mark.parametrize("length", PUBLIC)


class Sample(NamedTuple):
    """COUNT images, measured.

    `targets` (n, 2, length, 4), `paddles` a list of (p, 4), `markers` (n, 2, 2); shares of pixels
    by value and components (n,) each.
    """

    labels: np.ndarray
    markers: np.ndarray
    targets: np.ndarray
    paddles: list[np.ndarray]
    lit: np.ndarray
    mean: np.ndarray
    nonzero: np.ndarray
    white: np.ndarray
    components: np.ndarray


def settings_of(length: int, image_size: int = 300) -> PathfinderSettings:
    return PathfinderSettings(image_size=image_size, contour_length=length, layout="reference")


@functools.cache
def sample(length: int) -> Sample:
    settings = settings_of(length)
    drawn = draw_images(settings, SEED, 0, COUNT)
    paddles = [draw_scene(settings, SEED, index).paddles for index in range(COUNT)]
    targets = np.array([p[: 2 * length].reshape(2, length, 4) for p in paddles])
    neighbours = np.ones((3, 3))
    return Sample(
        drawn.labels,
        drawn.markers.astype(np.float64),
        targets,
        paddles,
        (drawn.images > 127).mean((1, 2)),
        drawn.images.mean((1, 2)) / 255,
        (drawn.images > 0).mean((1, 2)),
        (drawn.images == 255).mean((1, 2)),
        np.array([ndimage.label(image > 127, neighbours)[1] for image in drawn.images]),
    )


@functools.cache
def marker_distances(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and labels of DISTANCES images, small ones: their geometry is the same."""
    drawn = draw_images(settings_of(length, image_size=32), SEED, 0, DISTANCES)
    between = np.diff(drawn.markers.astype(np.float64), axis=1)[:, 0]
    return np.linalg.norm(between, axis=-1), drawn.labels


def headings_of(paddles: np.ndarray) -> np.ndarray:
    """Angles (...) of paddles (..., 4), radians."""
    return np.arctan2(*np.moveaxis(paddles[..., 2:] - paddles[..., :2], -1, 0))


def turns_of(paddles: np.ndarray) -> np.ndarray:
    """Degrees between consecutive paddles of contours (..., length, 4)."""
    return np.degrees((np.diff(headings_of(paddles)) + np.pi) % (2 * np.pi) - np.pi)


def points_to_segments(points: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """Distances between points (..., 2) and segments (..., 4)."""
    along = segments[..., 2:] - segments[..., :2]
    share = np.sum((points - segments[..., :2]) * along, -1) / np.sum(along**2, -1)
    nearest = segments[..., :2] + np.clip(share, 0.0, 1.0)[..., None] * along
    return np.linalg.norm(points - nearest, axis=-1)


def distances_between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Distances (n, m) between centre lines (n, 4) and (m, 4); 0 where they cross.

    Lines cross where a + s * p = b + t * q has a solution with both shares between 0 and 1.
    """
    a, b = np.broadcast_arrays(one[:, None], other[None])
    pairs = [(a[..., :2], b), (a[..., 2:], b), (b[..., :2], a), (b[..., 2:], a)]
    distance = np.minimum.reduce([points_to_segments(*pair) for pair in pairs])
    p, q, r = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2], b[..., :2] - a[..., :2]
    determinant = p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]
    determinant = np.where(np.abs(determinant) < 1e-9, np.inf, determinant)
    s = (r[..., 0] * q[..., 1] - r[..., 1] * q[..., 0]) / determinant
    t = (r[..., 0] * p[..., 1] - r[..., 1] * p[..., 0]) / determinant
    return np.where((0 < s) & (s < 1) & (0 < t) & (t < 1), 0.0, distance)


# pixels


@each_length
def test_light(length: int) -> None:
    """Means over images, within 3 %; the public ones are given to two or three digits."""
    drawn, public = sample(length), PUBLIC[length]
    assert drawn.lit.mean() == pytest.approx(public.lit, rel=0.03)
    assert drawn.mean.mean() == pytest.approx(public.mean, rel=0.03)
    assert drawn.nonzero.mean() == pytest.approx(public.nonzero, rel=0.03)
    assert drawn.white.mean() == pytest.approx(public.white, rel=0.03)


@each_length
def test_connected_components(length: int) -> None:
    """One for each paddle, but for two under discs and a few that touch."""
    assert sample(length).components.mean() == pytest.approx(PUBLIC[length].components, abs=0.3)


def the_stamps() -> Stamps:
    return make_stamps(5, 2, 3, 5, 1.8)


@pytest.mark.parametrize("way", [0, 90, 180, 270])
def test_upright_paddle_is_six_pixels_long_and_three_wide(way: int) -> None:
    """Profiles across, from the faint edge: 64, 255, 195."""
    bar = the_stamps().bars[way].astype(int)
    solid = bar * (bar > 30)
    lines = solid if way % 180 == 0 else solid.T
    rows, columns = np.flatnonzero(lines.any(1)), np.flatnonzero(lines.any(0))
    assert (len(rows), len(columns)) == (3, 6)
    profile = np.median(lines[rows][:, columns], axis=1)
    profile = profile if profile[0] < profile[2] else profile[::-1]
    np.testing.assert_allclose(profile, [64, 255, 195], atol=3)


def test_paddles_of_all_headings() -> None:
    bars = the_stamps().bars[:360].astype(np.float64)
    light, bright = bars.sum((1, 2)) / 255, (bars > 127).sum((1, 2))
    assert (light.mean(), light.std()) == pytest.approx((11.1, 1.1), abs=0.1)
    assert (bright.mean(), bright.std()) == pytest.approx((10.6, 1.6), abs=0.1)
    lengths, widths = np.array([equal_moment_sides(bar) for bar in bars]).T
    assert lengths.mean() == pytest.approx(5.8, abs=0.1)
    assert widths.mean() == pytest.approx(2.4, abs=0.1)


def equal_moment_sides(bar: np.ndarray) -> tuple[float, float]:
    """Length and width of the rectangle with a picture's second moments."""
    rows, columns = np.indices(bar.shape).reshape(2, -1)
    widths = np.linalg.eigvalsh(np.cov(rows, columns, aweights=bar.ravel(), ddof=0))
    return math.sqrt(12 * widths[1]), math.sqrt(12 * widths[0])


def test_paddles_point_where_they_should() -> None:
    """The light's middle lies half a paddle from the pixel that the paddle is drawn from."""
    _, bars, _ = the_stamps()
    rows = np.arange(21) - 10
    light = bars.sum((1, 2), dtype=np.float64)
    middles = np.stack([bars.sum(2) @ rows, bars.sum(1) @ rows], -1) / light[:, None]
    np.testing.assert_allclose(middles, the_stamps().geometry.lines / 2, atol=0.75)


def test_disc() -> None:
    disc = the_stamps().disc / 255
    rows = np.arange(21) - 10
    assert disc.sum() == pytest.approx(79.5, abs=0.1)
    assert disc.sum(1) @ rows / disc.sum() == pytest.approx(-0.25, abs=0.01)
    assert disc.sum(0) @ rows / disc.sum() == pytest.approx(-0.25, abs=0.01)


@each_length
def test_discs_stand_where_the_record_says(length: int) -> None:
    drawn = draw_images(settings_of(length), SEED, 0, 40)
    centres = np.stack(np.indices((300, 300)), -1) + 0.5
    for image, markers in zip(drawn.images, drawn.markers, strict=True):
        for marker in markers:
            away = np.linalg.norm(centres - marker, axis=-1)
            assert image[away < 4.3].min() > 200
            ring = image[(away > 5.8) & (away < 7.0)]
            assert (ring > 127).mean() < 0.4


# contours


@each_length
def test_paddles_and_distractors_placed(length: int) -> None:
    drawn, public = sample(length), PUBLIC[length]
    counts = np.array([len(paddles) for paddles in drawn.paddles])
    size = length // 3
    assert counts.max() == public.paddles
    assert ((counts - 2 * length) % size == 0).all()
    placed = (counts - 2 * length) / size
    assert placed.mean() == pytest.approx(15.0, abs=0.005 if length < 14 else 0.03)
    lacking = (placed < 15).mean()
    assert lacking < 0.005 if length < 14 else lacking == pytest.approx(0.014, abs=0.013)


@each_length
def test_turns(length: int) -> None:
    """Quartiles -14 and 14, 5 to 95 % -31 to 31 degrees; correlated with the last one by .05."""
    turns = turns_of(sample(length).targets)
    assert turns.std() == pytest.approx(18.5, abs=0.7)
    assert turns.mean() == pytest.approx(0.0, abs=0.6)
    np.testing.assert_allclose(np.quantile(turns, SHARES), [-49, -31, -14, 0, 14, 31, 49], atol=1.0)
    assert abs(np.corrcoef(turns[..., :-1].ravel(), turns[..., 1:].ravel())[0, 1]) < 0.07
    bins = np.histogram(turns, np.arange(-50, 51, 10))[0] / turns.size
    expected = [0.009, 0.042, 0.11, 0.137, 0.135, 0.263, 0.14, 0.11, 0.043, 0.009]
    np.testing.assert_allclose(bins, expected, atol=0.012)


@each_length
def test_whole_pixels_pull_contours_up_and_left(length: int) -> None:
    """A quadrant's share varies by some .3 from contour to contour: 3 standard errors are .04."""
    headings = headings_of(sample(length).targets)
    up_left = np.mean((np.sin(headings) < 1e-6) & (np.cos(headings) < 1e-6))
    assert up_left == pytest.approx({6: 0.27, 9: 0.27, 14: 0.32}[length], abs=0.04)


@each_length
def test_end_to_end_length(length: int) -> None:
    """Mean within 2 %, deviation within 5 %, over the positive images, whose discs are the ends."""
    distances, labels = marker_distances(length)
    public, ours = PUBLIC[length], distances[labels == 1]
    assert ours.mean() == pytest.approx(public.end_to_end, rel=0.02)
    assert ours.std() == pytest.approx(public.end_to_end_deviation, rel=0.05)


@each_length
def test_targets_lie_where_the_public_ones_do(length: int) -> None:
    """First tails in [55, 242], the other tail up to 27 pixels beyond, last heads in [25, 274]."""
    drawn = sample(length)
    tails = np.floor(drawn.targets[:, :, 0, :2])
    inside = ((tails >= 54) & (tails <= 245)).all(-1)
    assert inside.any(1).all()
    assert not inside.all()
    assert tails.min() < 40 and tails.max() > 259
    heads = np.floor(drawn.targets[:, :, -1, 2:])
    assert heads.min() >= 24 and heads.max() <= 275


@each_length
def test_nothing_enters_the_border(length: int) -> None:
    """Whole pixels keep at least 23 from the window's edge; the median image comes within 25."""
    away = [min(p.min(), 300 - p.max()) - 0.5 for p in sample(length).paddles]
    assert 23 <= min(away) < 25
    assert np.median(away) == pytest.approx(25.5, abs=1.0)


@each_length
def test_tails_lie_the_seed_distance_apart(length: int) -> None:
    tails = sample(length).targets[:, :, 0, :2]
    apart = np.linalg.norm(tails[:, 0] - tails[:, 1], axis=-1)
    assert apart.mean() == pytest.approx(27.0, abs=0.05)
    assert apart.std() == pytest.approx(0.25, abs=0.03)


@each_length
def test_consecutive_paddles(length: int) -> None:
    """Gaps between heads and next tails: 4.0 at the 1st percentile, 6.0 in the middle."""
    targets = sample(length).targets
    gaps = np.linalg.norm(targets[:, :, 1:, :2] - targets[:, :, :-1, 2:], axis=-1)
    assert np.median(gaps) == pytest.approx(6.0, abs=0.3)
    assert np.quantile(gaps, 0.01) == pytest.approx(4.0, abs=0.4)


@each_length
def test_some_targets_touch(length: int) -> None:
    """Three standard errors of both samples' shares, and half of the public ones' last digit."""
    drawn, public = sample(length), PUBLIC[length]
    distances = np.array([distances_between(*targets).min() for targets in drawn.targets])
    images = public.positive[0] + public.negative[0]
    for within, share in ((5.0, public.near), (2.0, public.touching)):
        error = math.sqrt(share * (1 - share) * (1 / images + 1 / COUNT))
        assert (distances < within).mean() == pytest.approx(share, abs=3 * error + 0.005)


@each_length
def test_other_paddles_keep_clear(length: int) -> None:
    """Smallest distances of an image; medians public: 14-15, 7.5-12 and 7-9 pixels.

    Within a target, between targets and distractors, and between distractors. Distractors come
    nearer than 5 pixels only to the last paddle of a target, in 5, 6 and 9 % of public images.
    """
    own, to_targets, to_last, distractors = [], [], [], []
    for paddles in sample(length).paddles[:CLEARANCES]:
        place, row = np.arange(len(paddles)), np.arange(len(paddles)) // length
        chain = np.where(row < 2, row, 2 + (place - 2 * length) // (length // 3))
        distance = np.where(chain[:, None] == chain, np.inf, distances_between(paddles, paddles))
        last = distance[[length - 1, 2 * length - 1], 2 * length :].min()
        others = np.delete(np.arange(2 * length), [length - 1, 2 * length - 1])
        to_last.append(last)
        to_targets.append(min(last, distance[others, 2 * length :].min()))
        assert distance[others, 2 * length :].min() > 4.6
        distractors.append(distance[2 * length :, 2 * length :].min())
        targets = paddles[: 2 * length].reshape(2, length, 4)
        within = [distances_between(one, one)[np.triu_indices(length, 2)] for one in targets]
        own.append(np.min(within))
    assert min(own) > 11.0 and 13.8 < np.median(own) < 15.5
    assert min(distractors) > 4.6 and 6.8 < np.median(distractors) < 9.5
    assert 7.0 < np.median(to_targets) < 12.0
    share = {6: 0.05, 9: 0.06, 14: 0.09}[length]
    images = PUBLIC[length].positive[0] + PUBLIC[length].negative[0]
    error = math.sqrt(share * (1 - share) * (1 / images + 1 / CLEARANCES))
    assert np.mean(np.array(to_last) < 5) == pytest.approx(share, abs=3 * error + 0.005)


# markers


@each_length
def test_labels_decide_only_which_far_end_is_marked(length: int) -> None:
    drawn = sample(length)
    rows, far = np.arange(COUNT), 1 - drawn.labels.astype(int)
    np.testing.assert_allclose(drawn.markers[:, 0], drawn.targets[:, 0, 0, :2] - 0.25)
    np.testing.assert_allclose(drawn.markers[:, 1], drawn.targets[rows, far, -1, 2:] - 0.25)
    lit = drawn.lit[drawn.labels == 1], drawn.lit[drawn.labels == 0]
    assert stats.ks_2samp(*lit, method="asymp").pvalue > 0.01


def same_distribution(values: np.ndarray, images: int, quantiles: tuple[int, ...]) -> float:
    """P-value of a two-sample Kolmogorov-Smirnov test against quantiles of so many `images`.

    The public cumulative distribution is taken for linear between its quantiles, which are rounded
    to whole pixels. That alone makes for differences of up to .05, so the test is too strict.
    """
    values = np.sort(values)
    expected = np.interp(values, quantiles, SHARES)
    steps = np.arange(len(values) + 1) / len(values)
    difference = max((steps[1:] - expected).max(), (expected - steps[:-1]).max())
    effective = len(values) * images / (len(values) + images)
    return float(stats.kstwobign.sf(math.sqrt(effective) * difference))


@each_length
def test_marker_distances_are_the_public_ones(length: int) -> None:
    distances, labels = marker_distances(length)
    for label, public in ((1, PUBLIC[length].positive), (0, PUBLIC[length].negative)):
        assert same_distribution(distances[labels == label], *public) > 0.01


@each_length
def test_marker_distance_betrays_the_label_as_much(length: int) -> None:
    """Cross-validated cubic logistic regression; the public accuracies are uncertain by .01-.02."""
    distances, labels = marker_distances(length)
    z = (distances - distances.mean()) / distances.std()
    features = np.stack([z, z**2, z**3], -1)
    accuracy = linear_probe(features, labels, group=2).accuracy
    assert accuracy == pytest.approx(PUBLIC[length].accuracy, abs=0.05)


@pytest.mark.parametrize("length", [20, 25])
def test_longer_contours(length: int) -> None:
    settings = settings_of(length)
    drawn = draw_images(settings, SEED, 0, 20)
    for index in range(20):
        paddles = draw_scene(settings, SEED, index).paddles
        assert 2 * length + 8 * (length // 3) <= len(paddles) <= 2 * length + 15 * (length // 3)
        assert np.abs(turns_of(paddles[: 2 * length].reshape(2, length, 4))).max() < 50
        light = drawn.images[index].sum(dtype=np.float64) / 255
        assert light == pytest.approx(11.1 * len(paddles) + 2 * 79.5 - 20, rel=0.05)
