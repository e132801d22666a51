"""Markers found in pictures, and features measured on pictures made by hand."""

import numpy as np
import pytest

from common.data.pathfinder import (
    PathfinderSettings,
    draw_images,
    find_markers,
    shortcut_features,
)
from common.data.pathfinder.rendering import draw_bar, draw_disc

DEFAULT = PathfinderSettings(image_size=64, window=150.0, padding=8.0, distractors=6)


def picture(discs: list[tuple[float, float]], radius: float = 4.0, size: int = 64) -> np.ndarray:
    """A picture of discs alone."""
    canvas = np.zeros((size, size))
    for y, x in discs:
        draw_disc(canvas, y, x, radius)
    return np.round(255 * canvas).astype(np.uint8)


def distances(found: np.ndarray, markers: np.ndarray) -> np.ndarray:
    """Distances (n, 2) between the markers found and the real ones, in the order that fits."""
    straight, crossed = (
        np.linalg.norm(found - order, axis=-1) for order in (markers, markers[:, ::-1])
    )
    return np.where((straight.sum(1) < crossed.sum(1))[:, None], straight, crossed)


@pytest.mark.parametrize("image_size", [64, 128, 300])
@pytest.mark.parametrize("layout", ["matched", "reference"])
def test_markers_are_found_where_they_were_drawn(layout: str, image_size: int) -> None:
    """Half of them within a quarter of a reference pixel, all within half a disc; upper first."""
    settings = PathfinderSettings(image_size=image_size, contour_length=9, layout=layout)
    drawn = draw_images(settings, 3, 0, 60 if image_size == 300 else 200)
    scale = image_size / settings.window
    found = find_markers(drawn.images, settings.marker_radius * scale)
    assert found.dtype == np.float32 and (found[:, 0, 0] <= found[:, 1, 0]).all()
    off = distances(found / scale, drawn.markers)
    assert np.median(off) < 0.25
    assert off.max() < 2.5


def test_markers_are_found_in_images_of_the_default_run() -> None:
    drawn = draw_images(DEFAULT, 3, 0, 400)
    scale = DEFAULT.image_size / DEFAULT.window
    found = find_markers(drawn.images, DEFAULT.marker_radius * scale)
    off = distances(found / scale, drawn.markers)
    assert np.median(off) < 0.2 and off.max() < 0.5


def test_discs_at_the_border_and_bright_bars_do_not_mislead() -> None:
    canvas = picture([(2.0, 3.0), (60.5, 30.25)]) / 255.0
    draw_bar(canvas, 20.0, 5.0, 20.0, 60.0, 2.0)
    found = find_markers(np.round(255 * canvas).astype(np.uint8)[None], 4.0)
    np.testing.assert_allclose(found[0], [(2.0, 3.0), (60.5, 30.25)], atol=1.0)


def features_of(images: np.ndarray, markers: np.ndarray) -> dict[str, np.ndarray]:
    return shortcut_features(images, markers, 4.0)


def test_features_have_their_shapes() -> None:
    drawn = draw_images(DEFAULT, 3, 0, 10)
    features = shortcut_features(drawn.images, drawn.markers * 64 / 150, 5 * 64 / 150)
    widths = {
        "marker distance": 3,
        "lit fraction": 2,
        "marker positions": 12,
        "light near the markers": 6,
        "components": 1,
        "all of these": 24,
    }
    assert {name: values.shape for name, values in features.items()} == {
        name: (10, width) for name, width in widths.items()
    }
    parts = [values for name, values in features.items() if name != "all of these"]
    np.testing.assert_array_equal(features["all of these"], np.concatenate(parts, 1))
    assert all(np.isfinite(values).all() for values in features.values())


def test_marker_distance_is_standardised_and_raised_to_the_cube() -> None:
    markers = np.array([[(10.0, 10.0), (10.0, 10.0 + d)] for d in (5.0, 10.0, 15.0)])
    features = features_of(np.zeros((3, 64, 64), np.uint8), markers)["marker distance"]
    z = np.array([-1.0, 0.0, 1.0]) * np.sqrt(1.5)
    np.testing.assert_allclose(features, np.stack([z, z**2, z**3], -1), atol=1e-12)
    markers[:] = markers[0]
    equal = features_of(np.zeros((3, 64, 64), np.uint8), markers)["marker distance"]
    np.testing.assert_allclose(equal, 0.0, atol=1e-9)


def test_lit_fraction_counts_bright_pixels_and_light() -> None:
    images = np.zeros((2, 10, 10), np.uint8)
    images[0, :2], images[1, :3] = 127, 128
    features = features_of(images, np.full((2, 2, 2), 5.0))["lit fraction"]
    np.testing.assert_allclose(features, [(0.0, 0.2 * 127 / 255), (0.3, 0.3 * 128 / 255)])


def test_positions_are_measured_from_the_centre() -> None:
    markers = np.array([[(0.0, 0.0), (32.0, 48.0)]])
    (features,) = features_of(np.zeros((1, 64, 64), np.uint8), markers)["marker positions"]
    expected = [-0.5, -0.5, 0.0, 0.25, 0.25, 0.25, 0.0, 0.0625, 0.5**0.5, 0.25, 0.5, 0.25]
    np.testing.assert_allclose(features, expected)


def test_light_near_the_markers_is_what_lies_within_some_radii() -> None:
    """Discs of radius 4 alone, then with a bright pixel 30 from the second one."""
    markers = np.array([[(16.0, 16.0), (16.0, 48.0)]] * 2)
    images = np.stack([picture([(16.0, 16.0), (16.0, 48.0)])] * 2)
    images[1, 45, 47] = 255
    one, other = features_of(images, markers)["light near the markers"].reshape(2, 2, 3)
    area = images[0].sum(dtype=np.float64) / 255 / 2
    np.testing.assert_allclose(one, [(area, area, 2 * area)] * 2, rtol=1e-6)
    np.testing.assert_allclose(other - one, [(0, 0, 0), (0, 0, 1)], atol=1e-6)


def test_components_are_counted_across_corners() -> None:
    images = np.zeros((3, 16, 16), np.uint8)
    images[1, 2, 2] = images[1, 3, 3] = images[1, 10, 10] = 200
    images[2, 2, 2] = images[2, 2, 4] = 200
    images[2, 10, 10] = 127
    components = features_of(images, np.full((3, 2, 2), 5.0))["components"]
    np.testing.assert_array_equal(components, [[0], [2], [2]])
