"""Bars and discs of any size, and where scenes put them."""

import functools
import math

import numpy as np
import pytest
from scipy import ndimage

from common.data.pathfinder import PathfinderSettings, draw_images, draw_scene, draw_without
from common.data.pathfinder.rendering import draw_bar, draw_disc
from common.data.pathfinder.settings import LAYOUTS
from common.errors import UserError

each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def distances_to_segment(points: np.ndarray, segment: np.ndarray) -> np.ndarray:
    """Distances of points (..., 2) to one segment (y0, x0, y1, x1)."""
    start, along = segment[:2], segment[2:] - segment[:2]
    share = np.clip((points - start) @ along / (along @ along), 0.0, 1.0)
    return np.linalg.norm(points - start - share[..., None] * along, axis=-1)


# shapes


@pytest.mark.parametrize(("y", "x"), [(20.0, 20.0), (20.3, 19.85), (20.5, 20.5)])
@pytest.mark.parametrize("thickness", [2.0, 0.7])
def test_upright_bar_covers_its_area(y: float, x: float, thickness: float) -> None:
    for dy, dx in ((0.0, 5.0), (5.0, 0.0)):
        image = np.zeros((40, 40))
        draw_bar(image, y, x, y + dy, x + dx, thickness)
        assert image.sum() == pytest.approx(5.0 * thickness)
        rows, columns = (np.indices(image.shape) + 0.5).reshape(2, -1) @ image.ravel()
        centroid = rows / image.sum(), columns / image.sum()
        assert centroid == pytest.approx((y + dy / 2, x + dx / 2), abs=0.2)


def test_slanted_bar_covers_its_area_nearly() -> None:
    for angle in np.linspace(0.0, 2 * math.pi, 25):
        image = np.zeros((40, 40))
        draw_bar(image, 20.2, 19.7, 20.2 + 5 * math.sin(angle), 19.7 + 5 * math.cos(angle), 2.0)
        assert image.sum() == pytest.approx(10.0, rel=0.06)
        assert image.max() == pytest.approx(1.0)


@pytest.mark.parametrize("radius", [1.0, 2.5, 5.0])
def test_disc_covers_its_area(radius: float) -> None:
    for y, x in ((20.0, 20.0), (20.5, 20.5), (19.8, 20.35)):
        image = np.zeros((40, 40))
        draw_disc(image, y, x, radius)
        assert image.sum() == pytest.approx(math.pi * radius**2, rel=0.12 if radius < 2 else 0.02)
        rows, columns = (np.indices(image.shape) + 0.5).reshape(2, -1) @ image.ravel()
        assert (rows / image.sum(), columns / image.sum()) == pytest.approx((y, x), abs=0.1)


def test_shapes_are_combined_by_the_maximum_and_clipped_at_the_border() -> None:
    image = np.zeros((20, 20))
    draw_disc(image, 0.0, 10.0, 4.0)
    assert image.sum() == pytest.approx(8 * math.pi, rel=0.03)
    draw_bar(image, 10.3, 15.0, 12.0, 22.0, 2.0)
    once = image.copy()
    draw_disc(image, 0.0, 10.0, 4.0)
    draw_bar(image, 10.3, 15.0, 12.0, 22.0, 2.0)
    np.testing.assert_array_equal(image, once)


def test_rows_and_columns_are_told_apart() -> None:
    image = np.zeros((20, 30))
    draw_bar(image, 10.0, 5.0, 10.0, 25.0, 2.0)
    assert (image > 0).any(1).sum() == 2 and (image > 0).any(0).sum() == 20


# scenes


@each_layout
@pytest.mark.parametrize("image_size", [224, 300, 512, 600])
def test_paddles_and_markers_are_drawn_where_the_scene_says(layout: str, image_size: int) -> None:
    """At the published size the reference layout draws by stamps, on whole pixels."""
    settings = PathfinderSettings(image_size=image_size, layout=layout)
    scale = image_size / settings.window
    (image,) = draw_images(settings, 1, 4, 1).images
    scene = draw_scene(settings, 1, 4)
    rows, columns = np.floor(scene.markers.T * scale).astype(int)
    assert image[rows, columns].min() > 250
    middles = (scene.paddles[:, :2] + scene.paddles[:, 2:]) / 2
    rows, columns = np.floor(middles.T * scale).astype(int)
    assert image[rows, columns].mean() > 220
    assert ndimage.maximum_filter(image, 3)[rows, columns].min() > 190
    assert image[columns, rows].mean() < 110, "rows and columns are told apart"

    centres = (np.stack(np.indices(image.shape), -1) + 0.5) / scale
    dark = np.ones(image.shape, bool)
    for paddle in scene.paddles:
        dark &= distances_to_segment(centres, paddle) > 3.5
    for marker in scene.markers:
        dark &= np.linalg.norm(centres - marker, axis=-1) > settings.marker_radius + 1.5
    assert image[dark].max() < 16, "nothing but the stamps' faint edges"
    area = image.sum(dtype=np.float64) / 255.0 / scale**2
    paddles = 5.0 * settings.bar_thickness * len(scene.paddles)
    discs = 2 * math.pi * settings.marker_radius**2
    assert paddles - 25.0 + discs < area < 1.03 * paddles + discs


@each_layout
@pytest.mark.parametrize("image_size", [32, 33, 64, 77, 128, 160, 224, 256, 384, 512])
def test_any_size_shows_the_same_light(layout: str, image_size: int) -> None:
    """Light, as an area of the plane, and its middle, as at 1024 pixels.

    Thin bars make for uneven and, up to 64 pixels, for 2 to 5 % more light: means over 40
    images are compared, and agree on the middle to a quarter of a pixel.
    """
    small = PathfinderSettings(image_size=image_size, layout=layout)
    light, middle = light_and_middle(draw_images(small, 1, 0, 40).images)
    wanted_light, wanted_middle = finest(layout)
    assert light.mean() == pytest.approx(
        wanted_light.mean(), rel=0.06 if image_size <= 64 else 0.02
    )
    off = (middle - wanted_middle).mean(0)
    np.testing.assert_allclose(off, 0.0, atol=max(0.0005, 0.25 / image_size))


@functools.cache
def finest(layout: str) -> tuple[np.ndarray, np.ndarray]:
    settings = PathfinderSettings(image_size=1024, layout=layout)
    return light_and_middle(draw_images(settings, 1, 0, 40).images)


def light_and_middle(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Light (n,) as a share of images (n, s, s), and its middle (n, 2) as shares of their sides."""
    size = images.shape[-1]
    rows, columns = (images.sum(axis, dtype=np.float64) for axis in (2, 1))
    middle = np.stack([rows, columns], 1) @ ((np.arange(size) + 0.5) / size)
    return rows.sum(1) / 255 / size**2, middle / rows.sum(1, keepdims=True)


@each_layout
def test_pictures_are_scaled_in_their_geometry(layout: str) -> None:
    """At half the pixels an image is the mean of blocks, up to the antialiasing of thin edges."""
    large = draw_images(PathfinderSettings(image_size=600, layout=layout), 1, 0, 4).images
    small = draw_images(PathfinderSettings(image_size=200, layout=layout), 1, 0, 4).images
    blocks = large.reshape(4, 200, 3, 200, 3).mean((2, 4))
    assert np.abs(blocks - small).mean() < 0.25
    assert np.abs(blocks - small).max() < 100


def test_stamps_and_geometry_show_the_same_light() -> None:
    """The published size is stamped, all other ones are drawn: no step in light or place.

    A stamp's light varies by a tenth with its heading, which moves the middle of a single image
    by a pixel, and the mean over 200 images by less than a tenth.
    """
    stamped = draw_images(PathfinderSettings(image_size=300, layout="reference"), 1, 0, 200)
    drawn = draw_images(PathfinderSettings(image_size=301, layout="reference"), 1, 0, 200)
    np.testing.assert_array_equal(stamped.markers, drawn.markers)
    light, middle = light_and_middle(stamped.images)
    wanted_light, wanted_middle = light_and_middle(drawn.images)
    assert light.mean() == pytest.approx(wanted_light.mean(), rel=0.02)
    np.testing.assert_allclose((middle - wanted_middle).mean(0), 0.0, atol=0.3 / 300)
    assert (stamped.images > 127).mean() == pytest.approx((drawn.images > 127).mean(), rel=0.05)


@each_layout
@pytest.mark.parametrize("image_size", [64, 300])
def test_what_is_left_out_is_missing_and_nothing_else(layout: str, image_size: int) -> None:
    settings = PathfinderSettings(image_size=image_size, layout=layout)
    scale = image_size / settings.window
    scene = draw_scene(settings, 3, 5)
    (whole,) = draw_images(settings, 3, 5, 1).images
    np.testing.assert_array_equal(draw_without(settings, 3, 5, []), whole)
    cut = draw_without(settings, 3, 5, [2, 4])
    centres = (np.stack(np.indices(whole.shape), -1) + 0.5) / scale
    near = np.zeros(whole.shape, bool)
    for paddle in scene.paddles[[2, 4]]:
        near |= distances_to_segment(centres, paddle) < 3.5 + 1.5 / scale
    np.testing.assert_array_equal(cut[~near], whole[~near])
    missing = (whole.astype(float) - cut).sum() / 255 / scale**2
    assert missing == pytest.approx(2 * 5.0 * settings.bar_thickness, rel=0.2)
    with pytest.raises(UserError, match=f"has {len(scene.paddles)} paddles and none of number 99"):
        draw_without(settings, 3, 5, [0, 99])
