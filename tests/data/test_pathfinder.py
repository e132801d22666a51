"""The Pathfinder generator: reproducible, balanced, true to its geometry, without shortcuts."""

import functools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from common.analysis import logistic_regression, polynomial_features
from common.data.pathfinder import PathfinderSettings, Scene, draw_images, draw_scene
from common.data.pathfinder.compiled import (
    draw_disc,
    draw_paddle,
    draw_turn,
    make_stream,
    segment_distance,
)
from common.errors import UserError

SMALL = PathfinderSettings(image_size=32)
CROWDED = PathfinderSettings(
    image_size=32, contour_length=9, window=150.0, padding=8.0, distractors=12, distractor_length=4
)
WINDING = PathfinderSettings(image_size=32, contour_length=12, continuity=1.0, distractors=5)
TURN_DEVIATION = math.degrees(math.sqrt(math.pi**2 / 12 - 0.5) / SMALL.continuity)

each_family = pytest.mark.parametrize(
    "settings", [SMALL, CROWDED, WINDING], ids=["sparse", "crowded", "winding"]
)
each_kind = pytest.mark.parametrize("kind", ["matched", "public"])


def settings_of(kind: str, length: int = 6) -> PathfinderSettings:
    return PathfinderSettings(image_size=32, contour_length=length, marker_distance=kind)


@functools.cache
def scenes(settings: PathfinderSettings, count: int, seed: int = 1) -> list[Scene]:
    return [draw_scene(settings, seed, index) for index in range(count)]


def targets_of(scene: Scene, settings: PathfinderSettings) -> np.ndarray:
    """Paddles (2, length, 4) of the two targets."""
    length = settings.contour_length
    return scene.paddles[: 2 * length].reshape(2, length, 4)


def chains_of(scene: Scene, settings: PathfinderSettings) -> list[np.ndarray]:
    """Paddles of every contour, targets first."""
    assert settings.distractor_length
    distractors = scene.paddles[2 * settings.contour_length :]
    return [*targets_of(scene, settings), *distractors.reshape(-1, settings.distractor_length, 4)]


def directions_of(paddles: np.ndarray) -> np.ndarray:
    """Unit vectors (y, x) from start to end."""
    along = paddles[..., 2:] - paddles[..., :2]
    return along / np.linalg.norm(along, axis=-1, keepdims=True)


def distances_to_segment(points: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """Distances of points (..., 2) to one segment (y0, x0, y1, x1)."""
    start, along = segment[:2], segment[2:] - segment[:2]
    share = np.clip((points - start) @ along / (along @ along), 0.0, 1.0)
    return np.linalg.norm(points - start - share[..., None] * along, axis=-1)


# reproducible and balanced


@each_kind
def test_image_depends_on_seed_and_index_alone(kind: str) -> None:
    settings = settings_of(kind)
    images, labels, distances = draw_images(settings, 5, 0, 12)
    for start, count in ((0, 4), (3, 6), (11, 1)):
        part = draw_images(settings, 5, start, count)
        for mine, whole in zip(part, (images, labels, distances), strict=True):
            assert mine.tobytes() == whole[start : start + count].tobytes()


def test_threads_do_not_disturb_each_other() -> None:
    expected, _, _ = draw_images(SMALL, 5, 0, 64)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda start: draw_images(SMALL, 5, start, 8)[0], range(0, 64, 8)))
    np.testing.assert_array_equal(np.concatenate(parts), expected)


def test_scene_is_that_of_the_image() -> None:
    _, labels, distances = draw_images(SMALL, 1, 0, 20)
    for scene, label, distance in zip(scenes(SMALL, 20), labels, distances, strict=True):
        assert scene.label == label
        assert scene.marker_distance == pytest.approx(distance, rel=1e-6)


def test_no_two_seeds_or_indices_share_a_scene() -> None:
    tails = {tuple(s.markers[0]) for seed in range(5) for s in scenes(SMALL, 100, seed)}
    assert len(tails) == 500


def test_labels_alternate_so_that_any_even_count_is_balanced() -> None:
    for start in (0, 7):
        _, labels, _ = draw_images(SMALL, 0, start, 10)
        np.testing.assert_array_equal(labels, (np.arange(start, start + 10) + 1) % 2)


# geometry


@each_family
def test_contours_are_chains_of_paddles(settings: PathfinderSettings) -> None:
    """Equal paddles, bent by a bounded turn at a pivot half a gap from either end."""
    limit = math.cos(0.5 * math.pi / settings.continuity)
    for scene in scenes(settings, 20):
        chains = chains_of(scene, settings)
        assert len(chains) > 2
        for chain in chains:
            lengths = np.linalg.norm(chain[:, 2:] - chain[:, :2], axis=-1)
            np.testing.assert_allclose(lengths, settings.paddle_length)
            headings = directions_of(chain)
            pivots_ahead = chain[:-1, 2:] + settings.margin * headings[:-1]
            pivots_behind = chain[1:, :2] - settings.margin * headings[1:]
            np.testing.assert_allclose(pivots_ahead, pivots_behind, atol=1e-9)
            assert (np.sum(headings[:-1] * headings[1:], -1) >= limit).all()


@each_family
def test_paddles_keep_clear_of_all_but_their_neighbours(settings: PathfinderSettings) -> None:
    """Sampled at quarter pixels: a crossing would leave at most an eighth between them."""
    smallest = math.inf
    for scene in scenes(settings, 30):
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


@pytest.mark.parametrize("settings", [SMALL, CROWDED], ids=["sparse", "crowded"])
def test_nothing_enters_the_border(settings: PathfinderSettings) -> None:
    paddles = np.concatenate([scene.paddles for scene in scenes(settings, 200)])
    low, high = settings.padding, settings.window - settings.padding
    assert low <= paddles.min() < low + 2.0
    assert high - 2.0 < paddles.max() <= high


@each_kind
def test_tails_lie_apart_and_markers_end_contours(kind: str) -> None:
    settings = settings_of(kind)
    for index, scene in enumerate(scenes(settings, 40)):
        first, second = targets_of(scene, settings)
        assert np.linalg.norm(first[0, :2] - second[0, :2]) == pytest.approx(27.0)
        marked = first if index % 2 == 0 else second
        np.testing.assert_array_equal(scene.markers, [first[0, :2], marked[-1, 2:]])


def test_distractors_that_find_no_room_are_left_out_whole() -> None:
    full = 2 * CROWDED.contour_length + 12 * 4
    counts = {len(scene.paddles) for scene in scenes(CROWDED, 200)}
    assert max(counts) <= full and min(counts) < full
    assert all((full - count) % 4 == 0 for count in counts)


def test_turns_follow_the_squared_cosine() -> None:
    """Standard error of the deviation over 20,000 turns: under 0.1 degrees."""
    stream = make_stream(0, 0)
    turns = np.degrees([draw_turn(stream, SMALL.continuity) for _ in range(20_000)])
    assert pytest.approx(18.08, abs=0.01) == TURN_DEVIATION
    assert turns.std() == pytest.approx(TURN_DEVIATION, abs=0.3)
    assert turns.mean() == pytest.approx(0.0, abs=0.5)
    # share of |turn| < 10 degrees: integral of cos^2, in closed form
    angle = 2 * SMALL.continuity * math.radians(10.0)
    assert np.mean(np.abs(turns) < 10.0) == pytest.approx(
        (angle + math.sin(angle)) / math.pi, abs=0.015
    )
    assert np.abs(turns).max() < 50.0


def test_turns_of_accepted_contours_keep_that_deviation() -> None:
    """Collisions favour some turns slightly: half a degree is allowed, and no preferred side."""
    targets = np.array([targets_of(scene, SMALL) for scene in scenes(SMALL, 2_000)])
    headings = np.arctan2(*np.moveaxis(directions_of(targets), -1, 0))
    turns = np.degrees((np.diff(headings) + np.pi) % (2 * np.pi) - np.pi)
    assert turns.std() == pytest.approx(TURN_DEVIATION, abs=0.5)
    assert turns.mean() == pytest.approx(0.0, abs=0.5)


def test_distance_of_segments() -> None:
    def distance(*coordinates: float) -> float:
        return segment_distance(coordinates[:4], coordinates[4:])

    assert distance(0.0, 0.0, 0.0, 4.0, 3.0, 1.0, 3.0, 9.0) == 3.0  # parallel
    assert distance(0.0, 0.0, 0.0, 4.0, -1.0, 2.0, 1.0, 2.0) == 0.0  # crossing
    assert distance(0.0, 0.0, 0.0, 4.0, 3.0, 8.0, 9.0, 8.0) == 5.0  # end to end
    assert distance(0.0, 0.0, 0.0, 4.0, 1.0, 2.0, 9.0, 2.0) == 1.0  # end to middle


# shortcuts


def accuracy_of_marker_distance(settings: PathfinderSettings, count: int = 2_000) -> float:
    """Held-out accuracy of a cubic logistic regression on the distance of the markers."""
    _, labels, distances = draw_images(settings, 3, 0, 2 * count)
    features = polynomial_features(distances, 3, like=distances[:count])
    model = logistic_regression(features[:count], labels[:count])
    return float(np.mean((model.probability(features[count:]) > 0.5) == labels[count:]))


@pytest.mark.parametrize("length", [6, 9])
def test_matched_negative_has_the_marker_distance_of_its_partner(length: int) -> None:
    _, labels, distances = draw_images(settings_of("matched", length), 2, 0, 400)
    np.testing.assert_allclose(distances[labels == 0], distances[labels == 1], rtol=1e-6)
    _, labels, distances = draw_images(settings_of("public", length), 2, 0, 400)
    assert np.abs(distances[labels == 0] - distances[labels == 1]).mean() > 5.0


def test_matched_marker_distance_tells_nothing() -> None:
    """Four standard errors of a coin over 2,000 images."""
    accuracy = accuracy_of_marker_distance(settings_of("matched"))
    assert abs(accuracy - 0.5) <= 4 * math.sqrt(0.25 / 2_000)


def test_public_marker_distance_betrays_the_label() -> None:
    assert accuracy_of_marker_distance(settings_of("public")) > 0.7


@each_kind
def test_brightness_tells_nothing(kind: str) -> None:
    images, labels, _ = draw_images(settings_of(kind), 4, 0, 2_000)
    light = images.reshape(len(images), -1).mean(1, dtype=np.float64)
    positive, negative = light[labels == 1], light[labels == 0]
    error = math.sqrt((positive.var() + negative.var()) / 1_000)
    assert abs(positive.mean() - negative.mean()) < 4 * error


# rendering


@pytest.mark.parametrize(("y", "x"), [(20.0, 20.0), (20.3, 19.85), (20.5, 20.5)])
@pytest.mark.parametrize("thickness", [2.0, 0.7])
def test_upright_paddle_covers_its_area(y: float, x: float, thickness: float) -> None:
    for dy, dx in ((0.0, 5.0), (5.0, 0.0)):
        image = np.zeros((40, 40))
        draw_paddle(image, y, x, y + dy, x + dx, thickness)
        assert image.sum() == pytest.approx(5.0 * thickness)
        rows, columns = (np.indices(image.shape) + 0.5).reshape(2, -1) @ image.ravel()
        centroid = rows / image.sum(), columns / image.sum()
        assert centroid == pytest.approx((y + dy / 2, x + dx / 2), abs=0.2)


def test_slanted_paddle_covers_its_area_nearly() -> None:
    for angle in np.linspace(0.0, 2 * math.pi, 25):
        image = np.zeros((40, 40))
        draw_paddle(image, 20.2, 19.7, 20.2 + 5 * math.sin(angle), 19.7 + 5 * math.cos(angle), 2.0)
        assert image.sum() == pytest.approx(10.0, rel=0.06)
        assert image.max() == pytest.approx(1.0)


@pytest.mark.parametrize("radius", [1.0, 2.5, 5.0])
def test_disc_covers_its_area(radius: float) -> None:
    for y, x in ((20.0, 20.0), (20.5, 20.5), (19.8, 20.35)):
        image = np.zeros((40, 40))
        draw_disc(image, y, x, radius)
        assert image.sum() == pytest.approx(math.pi * radius**2, rel=0.12 if radius < 2 else 0.02)


def test_shapes_are_combined_by_the_maximum_and_clipped_at_the_border() -> None:
    image = np.zeros((20, 20))
    draw_disc(image, 0.0, 10.0, 4.0)
    assert image.sum() == pytest.approx(8 * math.pi, rel=0.03)
    draw_paddle(image, 10.3, 15.0, 12.0, 22.0, 2.0)
    once = image.copy()
    draw_disc(image, 0.0, 10.0, 4.0)
    draw_paddle(image, 10.3, 15.0, 12.0, 22.0, 2.0)
    np.testing.assert_array_equal(image, once)


@pytest.mark.parametrize("image_size", [300, 600])
def test_paddles_and_markers_are_drawn_where_the_scene_says(image_size: int) -> None:
    settings = PathfinderSettings(image_size=image_size)
    scale = image_size / settings.window
    (image,), _, _ = draw_images(settings, 1, 4, 1)
    scene = draw_scene(settings, 1, 4)
    rows, columns = np.floor(scene.markers.T * scale).astype(int)
    np.testing.assert_array_equal(image[rows, columns], 255)
    middles = (scene.paddles[:, :2] + scene.paddles[:, 2:]) / 2
    rows, columns = np.floor(middles.T * scale).astype(int)
    assert image[rows, columns].min() > 190
    assert (image[columns, rows] > 0).mean() < 0.5, "rows and columns are told apart"

    centres = (np.stack(np.indices(image.shape), -1) + 0.5) / scale
    dark = np.ones(image.shape, bool)
    for paddle in scene.paddles:
        dark &= distances_to_segment(centres, paddle) > 2.5
    for marker in scene.markers:
        dark &= np.linalg.norm(centres - marker, axis=-1) > settings.marker_radius + 1.0
    assert image[dark].max() == 0
    area = image.sum(dtype=np.float64) / 255.0 / scale**2
    paddles, discs = 10.0 * len(scene.paddles), 2 * math.pi * settings.marker_radius**2
    assert paddles - 25.0 + discs < area < paddles + discs


def test_smaller_images_show_the_same_light() -> None:
    large, _, _ = draw_images(PathfinderSettings(image_size=300), 1, 0, 4)
    small, _, _ = draw_images(PathfinderSettings(image_size=150), 1, 0, 4)
    blocks = large.reshape(4, 150, 2, 150, 2).mean((2, 4))
    assert blocks.sum() == pytest.approx(small.sum(dtype=np.float64), rel=0.02)
    assert np.abs(blocks - small).max() < 64


# settings


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("marker_distance", "close", r"'close'; choose one of \('matched', 'public'\)"),
        ("image_size", 0, "0; expected an integer, 1 or more"),
        ("image_size", 32.5, "32.5; expected an integer"),
        ("contour_length", -1, "-1; expected an integer, 1 or more"),
        ("contour_length", 6.5, "6.5; expected an integer"),
        ("distractors", -1, "-1; expected an integer, 0 or more"),
        ("window", 0.0, "0.0; expected a number, greater than 0"),
        ("window", "300", "'300'; expected a number"),
        ("paddle_length", -5.0, "-5.0; expected a number, greater than 0"),
        ("paddle_thickness", 0.0, "0.0; expected a number, greater than 0"),
        ("margin", float("nan"), "nan; expected a number, 0 or more"),
        ("continuity", 0.0, "0.0; expected a number, greater than 0"),
        ("seed_distance", 0.0, "0.0; expected a number, greater than 0"),
        ("seed_distance", 400.0, "400; expected at most 108 for contours of 6 paddles"),
        ("window", 100.0, "100 with padding 22: a contour of 6 paddles needs 66"),
    ],
)
def test_bad_settings_name_the_field(field: str, value: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=rf"^data\.{field} is {complaint}"):
        PathfinderSettings(**{field: value})


@pytest.mark.parametrize(("length", "expected"), [(2, 1), (6, 2), (9, 3), (14, 4)])
def test_distractors_are_a_third_as_long(length: int, expected: int) -> None:
    assert PathfinderSettings(contour_length=length).distractor_length == expected


def test_one_paddle_cannot_span_the_seed_distance() -> None:
    with pytest.raises(UserError, match=r"data.seed_distance is 27; expected at most 9 "):
        PathfinderSettings(contour_length=1)
