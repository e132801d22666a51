"""Pathfinder settings, and what images and scenes of both layouts have in common."""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from common.data.pathfinder import (
    GENERATOR_VERSION,
    PathfinderSettings,
    Scene,
    draw_images,
    draw_scene,
)
from common.data.pathfinder.matched import direction_table, turn_table
from common.data.pathfinder.settings import LAYOUTS
from common.data.pathfinder.stamps import make_stamps
from common.errors import UserError

BITS = 200

each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def settings_of(layout: str, length: int = 6, **changes: Any) -> PathfinderSettings:
    defaults = {"image_size": 32, "contour_length": length, "layout": layout}
    return PathfinderSettings(**(defaults | changes))


def targets_of(scene: Scene, settings: PathfinderSettings) -> np.ndarray:
    """Paddles (2, length, 4) of the two targets, the marked tail's first."""
    length = settings.contour_length
    return scene.paddles[: 2 * length].reshape(2, length, 4)


def digest(*arrays: np.ndarray) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(f"{array.dtype.str} {array.shape}".encode())
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


# reproducible and balanced


@each_layout
@pytest.mark.parametrize("size", [32, 300])
def test_image_depends_on_seed_and_index_alone(layout: str, size: int) -> None:
    settings = settings_of(layout, image_size=size)
    drawn = draw_images(settings, 5, 0, 12)
    for start, count in ((0, 4), (3, 6), (11, 1)):
        part = draw_images(settings, 5, start, count)
        for mine, whole in zip(part, drawn, strict=True):
            assert mine.tobytes() == whole[start : start + count].tobytes()


@each_layout
def test_threads_do_not_disturb_each_other(layout: str) -> None:
    settings = settings_of(layout)
    expected = draw_images(settings, 5, 0, 64)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda start: draw_images(settings, 5, start, 4), range(0, 64, 4)))
    for field, whole in zip(zip(*parts, strict=True), expected, strict=True):
        np.testing.assert_array_equal(np.concatenate(field), whole)


@each_layout
def test_images_that_are_far_along_can_be_drawn_alone(layout: str) -> None:
    settings, far = settings_of(layout), 10**12
    assert draw_images(settings, 2**40, far, 1).images.any()
    scene = draw_scene(settings, 2**40, far + 1)
    np.testing.assert_allclose(
        draw_images(settings, 2**40, far, 2).markers[1], scene.markers, rtol=1e-6
    )


@each_layout
def test_no_two_seeds_or_indices_share_a_scene(layout: str) -> None:
    settings = settings_of(layout)
    scenes = [draw_scene(settings, seed, 2 * i) for seed in range(5) for i in range(100)]
    assert len({scene.paddles.tobytes() for scene in scenes}) == 500


@each_layout
def test_labels_alternate_so_that_any_even_count_is_balanced(layout: str) -> None:
    for start in (0, 7):
        labels = draw_images(settings_of(layout), 0, start, 10).labels
        np.testing.assert_array_equal(labels, (np.arange(start, start + 10) + 1) % 2)


@each_layout
def test_scene_is_that_of_the_image(layout: str) -> None:
    """Label, markers, and cosines between the paddles at the markers and the way between them."""
    settings = settings_of(layout)
    drawn = draw_images(settings, 1, 0, 40)
    for index in range(40):
        scene = draw_scene(settings, 1, index)
        assert scene.label == drawn.labels[index] == 1 - index % 2
        np.testing.assert_allclose(drawn.markers[index], scene.markers, rtol=1e-6)
        between = scene.markers[1] - scene.markers[0]
        own, other = targets_of(scene, settings)
        ends = own[0], (own, other)[index % 2][-1]
        for paddle, cosine in zip(ends, drawn.headings[index], strict=True):
            along = paddle[2:] - paddle[:2]
            expected = along @ between / np.linalg.norm(along) / np.linalg.norm(between)
            assert cosine == pytest.approx(expected, abs=1e-6)


@each_layout
def test_positive_markers_end_one_contour_and_negative_ones_two(layout: str) -> None:
    """The reference layout's discs stand a quarter pixel from the pixel that they mark."""
    settings = settings_of(layout)
    off = 0.26 * math.sqrt(2) if layout == "reference" else 1e-9
    for index in range(60):
        scene = draw_scene(settings, 1, index)
        own, other = targets_of(scene, settings)
        far_end = own[-1, 2:] if scene.label else other[-1, 2:]
        assert np.linalg.norm(scene.markers[0] - own[0, :2]) <= off
        assert np.linalg.norm(scene.markers[1] - far_end) <= off


@each_layout
@pytest.mark.parametrize("length", [6, 9, 14, 20, 25])
def test_every_length_is_drawn(layout: str, length: int) -> None:
    settings = settings_of(layout, length, image_size=64)
    assert settings.distractor_length == length // 3
    drawn = draw_images(settings, 0, 0, 20)
    assert drawn.images.max((1, 2)).min() > 240
    for index in range(20):
        paddles = draw_scene(settings, 0, index).paddles
        placed = (len(paddles) - 2 * length) / settings.distractor_length
        assert placed == int(placed) and 8 <= placed <= 15
        np.testing.assert_allclose(
            np.linalg.norm(paddles[:, 2:] - paddles[:, :2], axis=-1), 5.0, rtol=1e-9
        )


@each_layout
def test_distractors_that_find_no_room_are_left_out_whole(layout: str) -> None:
    settings = settings_of(layout, distractors=80, distractor_length=4)
    counts = {len(draw_scene(settings, 0, index).paddles) for index in range(0, 60, 2)}
    assert max(counts) < 12 + 320
    assert all((count - 12) % 4 == 0 for count in counts)


# the same on every machine

GOLDEN_IMAGES = {
    "matched 6 32": "fff3b6e3a7fa9635f69fcb67cde8fd4ce4f0e1c8f35e5e46283b56918542b800",
    "matched 6 64": "90d5618558cf0828635a3ba25963cd6d2b1ff154a97bd898aeb193aed23826d8",
    "matched 14 128": "2c2c7aba121df98789d81b22acf64925ac9df8083d80adafd60b9d50c51b8923",
    "reference 6 300": "c3e6b54c8a9a7305c5773a97832f45970a3ede16ae3f7079123cc3a0fc6cb0b6",
    "reference 9 300": "33ab0f74b02821363b6d324e1dde9c4de7ef434158702d7ab7f0944e3d5b7340",
    "reference 14 300": "0cdbc5638ce50e63a1ea9623b456dadde73f0b0a2adfc5f62d63ce34f0b4a530",
    "reference 6 64": "707baaa5ccd83f24e846a076207c8bbb29a36155dc3a8a6337b7d5b79c4846a6",
}
GOLDEN_TABLES = {
    "directions": "1f6447bbe527213dce96c84033f84877e0cc6841fbe34ace8e913e6b12993ce6",
    "turns": "fa4fb6fb945967a870741c5525765ab0f856b7a34e6f26e6c4af9e084ee79ec7",
    "stamps": "24d5ee26fa11d781e2434d0d694da4b31b3a8cb28b7f0eb177e9f0bf4c016576",
}


def golden_images(name: str) -> str:
    layout, length, size = name.split()
    settings = settings_of(layout, int(length), image_size=int(size))
    return digest(*draw_images(settings, 1, 0, 6))


def golden_table(name: str) -> str:
    if name == "stamps":
        geometry, bars, disc = make_stamps(5, 2, 3, 5, 1.8)
        return digest(*geometry, bars, disc)
    return digest(direction_table() if name == "directions" else turn_table(1.8))


@pytest.mark.parametrize("name", GOLDEN_IMAGES)
def test_images_are_those_of_this_version_to_the_last_bit(name: str) -> None:
    """Whoever means to change images raises GENERATOR_VERSION, which names them on disk."""
    assert GENERATOR_VERSION == 4
    assert golden_images(name) == GOLDEN_IMAGES[name]


@pytest.mark.parametrize("name", GOLDEN_TABLES)
def test_tables_are_those_of_this_version_to_the_last_bit(name: str) -> None:
    assert golden_table(name) == GOLDEN_TABLES[name]


def sine_and_cosine(angle: float) -> tuple[int, int]:
    """Sums the series for a float's exact value; results are in 2^-200."""
    x = int(Fraction(angle) * (1 << BITS))
    sums, term, k = [0, 0], 1 << BITS, 0
    while term:
        sums[1 - k % 2] += -term if k % 4 > 1 else term
        k += 1
        term = (term * x >> BITS) // k
    return sums[0], sums[1]


def ulps_from_a_tie(value: int, bits: int) -> float:
    """How far a number (in 2^-200) is from where it would round to another multiple of 2^-bits."""
    unit = 1 << (BITS - bits)
    away = abs(Fraction(abs(value) % unit, unit) - Fraction(1, 2))
    return float(away) / (math.ulp(abs(value) / 2**BITS) * 2.0**bits)


def rounded(angles: np.ndarray, bits: int) -> tuple[np.ndarray, float]:
    """Sines and cosines (n, 2) of floats in multiples of 2^-bits; fewest ulps from a tie."""
    exact = [sine_and_cosine(angle) for angle in angles.tolist()]
    table = [[round(Fraction(v, 1 << (BITS - bits))) / 2.0**bits for v in pair] for pair in exact]
    fewest = min(ulps_from_a_tie(v, bits) for pair in exact for v in pair if abs(v) >> 100)
    return np.array(table), fewest


def test_no_direction_lies_where_two_libms_could_round_it_apart() -> None:
    """Sines and cosines of present libms are off by less than 4 units in the last place."""
    table, ulps = rounded(np.arange(4096) * (2.0 * math.pi / 4096), 40)
    np.testing.assert_array_equal(direction_table(), table)
    assert ulps > 4
    table, ulps = rounded(np.arange(360) * (math.pi / 180.0), 40)
    np.testing.assert_array_equal(make_stamps(5, 2, 3, 5, 1.8).geometry.lines[:360], 5 * table)
    assert ulps > 4


def test_no_weight_lies_where_two_libms_could_round_it_apart() -> None:
    """Squared cosines near 1 carry the errors of an angle, a cosine and a product: 1e-15 in all."""
    turns = np.arange(-568, 569) * (2.0 * math.pi / 4096)
    weights = np.cos(1.8 * turns) ** 2 * 2.0**16
    np.testing.assert_array_equal(np.cumsum(np.round(weights)), turn_table(1.8))
    assert np.abs(weights % 1 - 0.5).min() > 1e-15 * 2.0**16
    heads = make_stamps(5, 2, 3, 5, 1.8).geometry.heads
    headings = np.arctan2(heads[:, 0], heads[:, 1])
    starts = np.concatenate([np.arange(360) * (math.pi / 180.0), headings])
    turns = (starts[:, None] - headings + math.pi) % (2 * math.pi) - math.pi
    weights = np.where(np.abs(turns) < 0.5 * math.pi / 1.8, np.cos(1.8 * turns) ** 2, 0.0) * 2.0**30
    np.testing.assert_array_equal(
        np.round(weights) / 2.0**30, make_stamps(5, 2, 3, 5, 1.8).geometry.weights
    )
    assert np.abs(weights % 1 - 0.5).min() > 2e-15 * 2.0**30


def test_no_whole_pixel_lies_where_two_libms_could_round_it_apart() -> None:
    """Away from whole numbers met exactly, no point comes within 1e-6 of the next pixel."""
    geometry = make_stamps(5, 2, 3, 5, 1.8).geometry
    directions = geometry.lines[:360] / 5
    onwards = -geometry.lines[360:] / 5
    back = 8 * directions
    for points in (back, 5 * directions, 11 * directions, 11 * onwards, 10 * onwards):
        away = np.abs(points - np.round(points))
        assert away[away > 1e-9].min() > 1e-6
    heads = np.ceil(5 * directions - 1e-6)
    np.testing.assert_array_equal(geometry.first_heads, heads)
    np.testing.assert_array_equal(geometry.first_pivots, np.ceil(heads - back - 1e-6))
    np.testing.assert_array_equal(
        geometry.pivots, np.ceil(11 * np.concatenate([directions, onwards]) - 1e-6)
    )


# settings


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("layout", "public", r"'public'; choose one of \('matched', 'reference'\)"),
        ("image_size", 0, "0; expected an integer, 1 or more"),
        ("image_size", 32.5, "32.5; expected an integer"),
        ("image_size", True, "True; expected an integer"),
        ("contour_length", -1, "-1; expected an integer, 1 or more"),
        ("contour_length", 6.5, "6.5; expected an integer"),
        ("distractors", -1, "-1; expected an integer, 0 or more"),
        ("distractor_length", -1, "-1; expected an integer, 0 or more"),
        ("window", 0.0, "0.0; expected a number, greater than 0"),
        ("window", "300", "'300'; expected a number"),
        ("window", math.inf, "inf; expected a number"),
        ("paddle_length", -5.0, "-5.0; expected a number, greater than 0"),
        ("paddle_thickness", 0.0, "0.0; expected a number, greater than 0"),
        ("marker_radius", 0.0, "0.0; expected a number, greater than 0"),
        ("margin", math.nan, "nan; expected a number, 0 or more"),
        ("padding", -1.0, "-1.0; expected a number, 0 or more"),
        ("continuity", 0.0, "0.0; expected a number, greater than 0"),
        ("seed_distance", 0.0, "0.0; expected a number, greater than 0"),
        ("seed_distance", 400.0, r"400; expected 8 \(what .*\) to 30 \(half .* of 6 paddles"),
        ("seed_distance", 7.0, "7; expected 8 "),
        ("window", 80.0, "80 with padding 22: a contour of 6 paddles is 60 long and .* 51"),
        ("window", 40.0, "40 with padding 22: .* the diagonal between the borders 0"),
    ],
)
def test_bad_settings_name_the_field(field: str, value: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=rf"^data\.{field} is {complaint}"):
        PathfinderSettings(**{field: value})


@pytest.mark.parametrize("field", ["window", "padding", "seed_distance", "paddle_length", "margin"])
def test_reference_layout_wants_whole_pixels(field: str) -> None:
    value = {"window": 250.5}.get(field, 5.5)
    with pytest.raises(UserError, match=rf"^data\.{field} is {value}; the reference .* whole"):
        PathfinderSettings(layout="reference", **{field: value})


@pytest.mark.parametrize(("length", "expected"), [(3, 1), (6, 2), (9, 3), (14, 4), (20, 6)])
def test_distractors_are_a_third_as_long(length: int, expected: int) -> None:
    settings = PathfinderSettings(contour_length=length, seed_distance=12.0)
    assert settings.distractor_length == expected
    assert PathfinderSettings(distractor_length=5).distractor_length == 5
    assert (
        PathfinderSettings(contour_length=length, layout="reference").distractor_length == expected
    )


def test_one_paddle_cannot_span_the_seed_distance() -> None:
    with pytest.raises(UserError, match=r"data.seed_distance is 27; expected 8 .* to 2.5 "):
        PathfinderSettings(contour_length=1)
