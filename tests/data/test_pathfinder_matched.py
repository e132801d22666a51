"""The matched layout: contours as promised, and nothing beside them that tells the label."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy import stats

from common.analysis import linear_probe
from common.data.pathfinder import (
    DrawnImages,
    PathfinderSettings,
    Scene,
    draw_images,
    draw_scene,
)
from common.data.pathfinder import shortcut_features as measure_shortcuts
from common.data.pathfinder.matched import direction_table, segment_distance, turn_table
from common.errors import UserError
from experiments.configs.pathfinder import get_config

FIELDS = {field.name for field in dataclasses.fields(PathfinderSettings)}
DEFAULT = PathfinderSettings(**{k: v for k, v in get_config().data.items() if k in FIELDS})
SIX = PathfinderSettings(image_size=64, window=150.0, padding=8.0, distractors=6)
LONG = PathfinderSettings(image_size=128, contour_length=14)
MIDDLE = PathfinderSettings(image_size=32, contour_length=9)
WINDING = PathfinderSettings(image_size=32, contour_length=12, continuity=1.0, distractors=5)
TURN_DEVIATION = math.degrees(math.sqrt(math.pi**2 / 12 - 0.5) / DEFAULT.continuity)

COUNT = 2_000
CHANCE_BOUND = 0.53 + 2.576 * math.sqrt(0.25 / COUNT)  # .559: what is allowed, and 99 % of luck

each_family = pytest.mark.parametrize(
    "settings",
    [DEFAULT, SIX, MIDDLE, LONG, WINDING],
    ids=["default", "six", "middle", "long", "winding"],
)


@functools.cache
def scenes(settings: PathfinderSettings, count: int) -> list[Scene]:
    """The positive scenes of so many pairs."""
    return [draw_scene(settings, 1, 2 * pair) for pair in range(count)]


def pairs(settings: PathfinderSettings) -> Iterator[tuple[Scene, Scene]]:
    """The positive and the negative scene of forty pairs."""
    for pair, positive in enumerate(scenes(settings, 40)):
        yield positive, draw_scene(settings, 1, 2 * pair + 1)


@functools.cache
def images(settings: PathfinderSettings) -> DrawnImages:
    return draw_images(settings, 1, 0, COUNT)


def targets_of(scene: Scene, settings: PathfinderSettings) -> np.ndarray:
    length = settings.contour_length
    return scene.paddles[: 2 * length].reshape(2, length, 4)


def chains_of(scene: Scene, settings: PathfinderSettings) -> list[np.ndarray]:
    """Paddles of every contour, targets first."""
    assert settings.distractor_length
    distractors = scene.paddles[2 * settings.contour_length :]
    return [*targets_of(scene, settings), *distractors.reshape(-1, settings.distractor_length, 4)]


def directions_of(paddles: np.ndarray) -> np.ndarray:
    """Unit vectors (y, x) from tail to head."""
    along = paddles[..., 2:] - paddles[..., :2]
    return along / np.linalg.norm(along, axis=-1, keepdims=True)


def distances_to_segment(points: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """Distances of points (..., 2) to one segment (y0, x0, y1, x1)."""
    start, along = segment[:2], segment[2:] - segment[:2]
    share = np.clip((points - start) @ along / (along @ along), 0.0, 1.0)
    return np.linalg.norm(points - start - share[..., None] * along, axis=-1)


def turns_of(paddles: np.ndarray) -> np.ndarray:
    """Degrees between consecutive paddles of contours (..., length, 4)."""
    headings = np.arctan2(*np.moveaxis(directions_of(paddles), -1, 0))
    return np.degrees((np.diff(headings) + np.pi) % (2 * np.pi) - np.pi)


# contours


@each_family
def test_contours_are_chains_of_paddles(settings: PathfinderSettings) -> None:
    """Equal paddles, bent by a bounded turn at a pivot half a gap from either end."""
    limit = math.cos(0.5 * math.pi / settings.continuity)
    for scene in scenes(settings, 40):
        chains = chains_of(scene, settings)
        assert len(chains) > 2
        for chain in chains:
            lengths = np.linalg.norm(chain[:, 2:] - chain[:, :2], axis=-1)
            np.testing.assert_allclose(lengths, settings.paddle_length)
            headings = directions_of(chain)
            pivots_ahead = chain[:-1, 2:] + settings.margin * headings[:-1]
            pivots_behind = chain[1:, :2] - settings.margin * headings[1:]
            np.testing.assert_allclose(pivots_ahead, pivots_behind, atol=1e-9)
            assert (np.sum(headings[:-1] * headings[1:], -1) >= limit - 1e-9).all()


@each_family
def test_no_paddles_touch(settings: PathfinderSettings) -> None:
    """Sampled at quarter pixels: a crossing would leave at most an eighth between them."""
    smallest = math.inf
    for scene in scenes(settings, 40):
        paddles = scene.paddles
        lengths = [len(chain) for chain in chains_of(scene, settings)]
        chain = np.repeat(range(len(lengths)), lengths)
        share = np.linspace(0.0, 1.0, 21)[:, None]
        points = paddles[:, None, :2] + share * (paddles[:, None, 2:] - paddles[:, None, :2])
        for i, paddle in enumerate(paddles):
            distances = distances_to_segment(points, paddle).min(-1)
            neighbours = (np.abs(np.arange(len(paddles)) - i) <= 1) & (chain == chain[i])
            smallest = min(smallest, distances[~neighbours].min())
    assert settings.clearance == 2 * settings.margin + settings.paddle_thickness
    assert settings.clearance - 1e-9 <= smallest < settings.clearance + 1.0


@pytest.mark.parametrize("settings", [DEFAULT, SIX, LONG], ids=["default", "six", "long"])
def test_nothing_enters_the_border(settings: PathfinderSettings) -> None:
    paddles = np.concatenate([scene.paddles for scene in scenes(settings, 300)])
    low, high = settings.padding, settings.window - settings.padding
    assert low <= paddles.min() < low + 2.0
    assert high - 2.0 < paddles.max() <= high


def test_contours_lie_and_point_anywhere() -> None:
    """No place or direction is favoured: 4 standard errors of 300 first paddles."""
    first = np.array([scene.paddles[0] for scene in scenes(LONG, 300)])
    assert np.abs(first[:, :2].mean(0) - 150.0).max() < 4 * first.std() / math.sqrt(300)
    assert np.abs(directions_of(first).mean(0)).max() < 4 * math.sqrt(0.5 / 300)


def test_turns_follow_the_squared_cosine() -> None:
    """The table's own law against the continuous one, in closed form."""
    weights = (
        np.diff(turn_table(DEFAULT.continuity), prepend=0) / turn_table(DEFAULT.continuity)[-1]
    )
    turns = (np.arange(len(weights)) - len(weights) // 2) * 360.0 / 4096
    assert np.abs(turns).max() < 50.0
    assert weights @ turns == pytest.approx(0.0, abs=1e-9)
    assert math.sqrt(weights @ turns**2) == pytest.approx(TURN_DEVIATION, abs=0.01)
    assert pytest.approx(18.08, abs=0.01) == TURN_DEVIATION
    angle = 2 * DEFAULT.continuity * math.radians(10.0)
    assert weights[np.abs(turns) < 10.0].sum() == pytest.approx(
        (angle + math.sin(angle)) / math.pi, abs=0.005
    )


@pytest.mark.parametrize("settings", [DEFAULT, SIX, LONG], ids=["default", "six", "long"])
def test_turns_of_accepted_contours_keep_that_deviation(settings: PathfinderSettings) -> None:
    """What contours must meet, the second one above all, changes it by a degree at most."""
    targets = np.array([targets_of(scene, settings) for scene in scenes(settings, 300)])
    for turns in np.moveaxis(turns_of(targets), 1, 0):
        assert turns.std() == pytest.approx(TURN_DEVIATION, abs=1.0)
        assert turns.mean() == pytest.approx(0.0, abs=4 * turns.std() / math.sqrt(turns.size))


def test_distance_of_segments() -> None:
    def distance(*coordinates: float) -> float:
        return segment_distance(coordinates[:4], coordinates[4:])

    assert distance(0.0, 0.0, 0.0, 4.0, 3.0, 1.0, 3.0, 9.0) == 3.0  # parallel
    assert distance(0.0, 0.0, 0.0, 4.0, -1.0, 2.0, 1.0, 2.0) == 0.0  # crossing
    assert distance(0.0, 0.0, 0.0, 4.0, 3.0, 8.0, 9.0, 8.0) == 5.0  # end to end
    assert distance(0.0, 0.0, 0.0, 4.0, 1.0, 2.0, 9.0, 2.0) == 1.0  # end to middle


def test_directions_are_those_of_a_turn() -> None:
    table = direction_table()
    angles = np.arange(4096) * (2 * np.pi / 4096)
    np.testing.assert_allclose(table, np.stack([np.sin(angles), np.cos(angles)], -1), atol=1e-12)


# pairs


@each_family
def test_an_odd_image_is_the_even_one_with_its_second_marker_elsewhere(
    settings: PathfinderSettings,
) -> None:
    for positive, negative in pairs(settings):
        np.testing.assert_array_equal(positive.paddles, negative.paddles)
        np.testing.assert_array_equal(positive.markers[0], negative.markers[0])
        own, other = targets_of(positive, settings)
        np.testing.assert_array_equal(positive.markers, [own[0, :2], own[-1, 2:]])
        np.testing.assert_array_equal(negative.markers[1], other[-1, 2:])


@each_family
def test_second_markers_are_mirror_images_of_each_other(settings: PathfinderSettings) -> None:
    """The mirror stands at the marked tail along its paddle; the last paddles are mirrored too."""
    for positive, negative in pairs(settings):
        own, other = targets_of(positive, settings)
        tail, axis = own[0, :2], directions_of(own[0])
        reflection = 2 * np.outer(axis, axis) - np.eye(2)
        np.testing.assert_allclose(
            negative.markers[1] - tail, reflection @ (positive.markers[1] - tail), atol=1e-8
        )
        np.testing.assert_allclose(
            directions_of(other[-1]), reflection @ directions_of(own[-1]), atol=1e-8
        )
        apart = [np.linalg.norm(np.diff(x.markers, axis=0)) for x in (positive, negative)]
        assert apart[0] == pytest.approx(apart[1], rel=1e-10)
        assert np.linalg.norm(positive.markers[1] - negative.markers[1]) > settings.clearance


@each_family
def test_tails_lie_within_a_tenth_of_the_seed_distance(settings: PathfinderSettings) -> None:
    targets = np.array([targets_of(scene, settings) for scene in scenes(settings, 40)])
    apart = np.linalg.norm(targets[:, 0, 0, :2] - targets[:, 1, 0, :2], axis=-1)
    assert np.abs(apart / settings.seed_distance - 1).max() <= 0.1 + 1e-9
    assert apart.std() > 1.0


@pytest.mark.parametrize("settings", [DEFAULT, SIX, LONG], ids=["default", "six", "long"])
def test_as_many_paddles_lie_around_either_head(settings: PathfinderSettings) -> None:
    """Paddles within 11 to 66 pixels of each head; 4 standard errors over 300 pairs."""
    for radius in (11.0, 22.0, 44.0, 66.0):
        differences = []
        for scene in scenes(settings, 300):
            middles = 0.5 * (scene.paddles[:, :2] + scene.paddles[:, 2:])
            heads = targets_of(scene, settings)[:, -1, 2:]
            near = np.linalg.norm(middles - heads[:, None], axis=-1) < radius
            differences.append(int(near[0].sum()) - int(near[1].sum()))
        assert np.mean(differences) == pytest.approx(0.0, abs=4 * np.std(differences) / 300**0.5)
        assert np.abs(differences).mean() < 1.5


# shortcuts


def powers(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values**power for power in (1, 2, 3)], 1)


@pytest.mark.parametrize("settings", [DEFAULT, SIX, LONG], ids=["default", "six", "long"])
def test_no_shortcut_tells_the_label(settings: PathfinderSettings) -> None:
    """Cross-validated logistic regressions on 2,000 images; pairs stay together in the folds.

    Allowed is .53 and the half-width of a 99 % interval of 2,000 coin tosses, .559 together.
    """
    drawn = images(settings)
    scale = settings.image_size / settings.window
    radius = settings.marker_radius * scale
    features = measure_shortcuts(drawn.images, drawn.markers * scale, radius)
    features["headings"] = powers(drawn.headings)
    features["everything"] = np.concatenate([features["all of these"], features["headings"]], 1)
    for name, values in features.items():
        score = linear_probe(values, drawn.labels, group=2)
        assert score.count == COUNT
        assert score.accuracy < CHANCE_BOUND, name


@pytest.mark.parametrize(
    "settings", [DEFAULT, SIX, MIDDLE, LONG], ids=["default", "six", "middle", "long"]
)
def test_distances_and_headings_are_the_same_for_both_labels(settings: PathfinderSettings) -> None:
    """Pair by pair to 1e-6 of their size, and so by a two-sample Kolmogorov-Smirnov test."""
    drawn = images(settings)
    distances = np.linalg.norm(np.diff(drawn.markers.astype(np.float64), axis=1)[:, 0], axis=-1)
    positive, negative = distances[::2], distances[1::2]
    np.testing.assert_allclose(positive, negative, rtol=1e-6)
    np.testing.assert_allclose(drawn.headings[::2], drawn.headings[1::2], atol=1e-6)
    assert stats.ks_2samp(positive, negative, method="asymp").pvalue > 0.99
    assert positive.std() > 0.5


# no room


@pytest.mark.parametrize(
    "changes",
    [
        {"window": 58.0, "padding": 6.0},  # too narrow for the contours side by side
        {"continuity": 40.0, "seed_distance": 25.0},  # too straight to come so near
    ],
    ids=["narrow", "straight"],
)
def test_settings_without_room_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="find no room in the window"):
        draw_scene(PathfinderSettings(**changes), 0, 0)
    with pytest.raises(UserError, match="find no room in the window"):
        draw_images(PathfinderSettings(image_size=16, **changes), 0, 1, 2)


def test_a_full_window_ends_the_distractors() -> None:
    scene = draw_scene(PathfinderSettings(distractors=2_000), 0, 0)
    assert 12 + 2 * 50 < len(scene.paddles) < 12 + 2 * 2_000
