"""The disk cache of Pathfinder images."""

import json

import numpy as np
import pytest

from common.data.pathfinder import (
    PathfinderSettings,
    draw_images,
    draw_scene,
    load_or_generate,
    marker_headings,
    split_seed,
)
from common.errors import UserError

SETTINGS = PathfinderSettings(image_size=16, contour_length=3, window=80.0, padding=6.0)


def test_images_are_those_of_the_generator_and_are_read_back(tmp_path):
    calls = []
    made = load_or_generate(SETTINGS, "test", 1030, 3, tmp_path, lambda *x: calls.append(x))
    again = load_or_generate(SETTINGS, "test", 1030, 3, tmp_path, lambda *x: calls.append(x))
    images, labels, distances = draw_images(SETTINGS, split_seed(3, "test"), 0, 1030)
    for data in (made, again):
        np.testing.assert_array_equal(data.images, images)
        np.testing.assert_array_equal(data.labels, labels)
        np.testing.assert_array_equal(data.marker_distances, distances)
    assert calls == [(512, 1030), (1024, 1030), (1030, 1030)]
    assert labels.mean() == 0.5


def test_batches_are_gathered_like_single_examples(tmp_path):
    data = load_or_generate(SETTINGS, "train", 20, cache=tmp_path)
    batch = data.__getitems__(np.array([3, 17, 4]))
    for row, index in enumerate((3, 17, 4)):
        assert data[index]["label"] == batch["label"][row]
        np.testing.assert_array_equal(data[index]["image"], batch["image"][row])
    assert len(data) == 20


def test_splits_and_seeds_are_disjoint():
    seeds = [split_seed(seed, s) for seed in range(4) for s in ("train", "validation", "test")]
    assert len(set(seeds)) == len(seeds)
    images = [draw_images(SETTINGS, seed, 0, 50)[0] for seed in seeds]
    distinct = {image.tobytes() for block in images for image in block}
    assert len(distinct) == 50 * len(seeds)


def test_settings_split_count_and_seed_each_have_their_own_folder(tmp_path):
    load_or_generate(SETTINGS, "train", 4, cache=tmp_path)
    load_or_generate(SETTINGS, "test", 4, cache=tmp_path)
    load_or_generate(SETTINGS, "train", 6, cache=tmp_path)
    load_or_generate(SETTINGS, "train", 4, 1, tmp_path)
    folders = list((tmp_path / "pathfinder").iterdir())
    assert len(folders) == 4
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in folders]
    assert sorted(m["count"] for m in manifests) == [4, 4, 4, 6]


def test_nothing_half_made_stays_behind(tmp_path):
    def fail(done, total):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        load_or_generate(SETTINGS, "train", 4, cache=tmp_path, report=fail)
    assert list((tmp_path / "pathfinder").iterdir()) == []


def test_damaged_cache_is_named(tmp_path):
    load_or_generate(SETTINGS, "train", 4, cache=tmp_path)
    (labels,) = (tmp_path / "pathfinder").glob("*/labels.npy")
    labels.write_bytes(b"")
    with pytest.raises(UserError, match=r"labels\.npy is damaged"):
        load_or_generate(SETTINGS, "train", 4, cache=tmp_path)


def test_odd_counts_and_unwritable_caches_are_refused(tmp_path):
    with pytest.raises(UserError, match="data.train_count is 3; it must be even"):
        load_or_generate(SETTINGS, "train", 3, cache=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache: cannot write"):
        load_or_generate(SETTINGS, "train", 4, cache=tmp_path / "file")


def test_marker_headings_are_those_of_the_scene():
    seed, count = split_seed(0, "test"), 20
    headings = marker_headings(SETTINGS, seed, 0, count)
    for index in range(count):
        scene = draw_scene(SETTINGS, seed, index)
        length = SETTINGS.contour_length
        last = scene.paddles[length - 1 if scene.label else 2 * length - 1]
        between = scene.markers[1] - scene.markers[0]
        for paddle, heading in zip((scene.paddles[0], last), headings[index], strict=True):
            along = paddle[2:] - paddle[:2]
            cosine = along @ between / np.hypot(*along) / np.hypot(*between)
            assert abs(cosine - heading) < 1e-5
