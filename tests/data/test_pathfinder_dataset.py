"""The disk cache of Pathfinder images."""

import dataclasses
import json

import numpy as np
import pytest

from common.data.pathfinder import (
    GENERATOR_VERSION,
    PathfinderSettings,
    draw_images,
    load_or_generate,
    shortcut_features,
    split_seed,
)
from common.errors import UserError

SETTINGS = PathfinderSettings(
    image_size=16, contour_length=3, window=80.0, padding=6.0, seed_distance=12.0
)
REFERENCE = PathfinderSettings(
    image_size=16, contour_length=3, window=130.0, padding=6.0, layout="reference"
)


@pytest.mark.parametrize("settings", [SETTINGS, REFERENCE], ids=["matched", "reference"])
def test_images_are_those_of_the_generator_and_are_read_back(settings, tmp_path):
    calls = []
    made = load_or_generate(settings, "test", 1030, 3, tmp_path, lambda *x: calls.append(x))
    again = load_or_generate(settings, "test", 1030, 3, tmp_path, lambda *x: calls.append(x))
    drawn = draw_images(settings, split_seed(3, "test"), 0, 1030)
    apart = np.linalg.norm(drawn.markers[:, 0] - drawn.markers[:, 1], axis=-1)
    for data in (made, again):
        for field, expected in drawn._asdict().items():
            np.testing.assert_array_equal(getattr(data, field), expected)
            assert getattr(data, field).dtype == expected.dtype
        np.testing.assert_allclose(data.marker_distances, apart, rtol=1e-6)
        assert data.settings == settings
    assert calls == [(512, 1030), (1024, 1030), (1030, 1030)]
    assert made.labels.mean() == 0.5


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
    load_or_generate(REFERENCE, "train", 4, cache=tmp_path)
    folders = list((tmp_path / "pathfinder").iterdir())
    assert len(folders) == 5
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in folders]
    assert sorted(m["count"] for m in manifests) == [4, 4, 4, 4, 6]
    assert {m["generator_version"] for m in manifests} == {GENERATOR_VERSION}


def test_nothing_half_made_stays_behind(tmp_path):
    def fail(done, total):
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        load_or_generate(SETTINGS, "train", 4, cache=tmp_path, report=fail)
    assert list((tmp_path / "pathfinder").iterdir()) == []


@pytest.mark.parametrize("name", ["images", "labels", "markers", "headings"])
def test_damaged_cache_is_named(name, tmp_path):
    load_or_generate(SETTINGS, "train", 4, cache=tmp_path)
    (file,) = (tmp_path / "pathfinder").glob(f"*/{name}.npy")
    file.write_bytes(b"")
    with pytest.raises(UserError, match=rf"{name}\.npy is damaged"):
        load_or_generate(SETTINGS, "train", 4, cache=tmp_path)


def test_odd_counts_and_unwritable_caches_are_refused(tmp_path):
    with pytest.raises(UserError, match="data.train_count is 3; it must be even"):
        load_or_generate(SETTINGS, "train", 3, cache=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"data\.cache: cannot write"):
        load_or_generate(SETTINGS, "train", 4, cache=tmp_path / "file")


def test_fingerprints_tell_data_sets_apart(tmp_path):
    def fingerprint(settings=SETTINGS, split="train", count=4, seed=0):
        return load_or_generate(settings, split, count, seed, tmp_path).fingerprint

    other = dataclasses.replace(SETTINGS, distractors=3)
    different = [fingerprint(other), fingerprint(split="test"), fingerprint(count=6)]
    assert len({fingerprint(), *different, fingerprint(seed=1)}) == 5
    assert fingerprint() == fingerprint() != ""


def test_shortcut_features_are_those_of_images_markers_and_headings(tmp_path):
    data = load_or_generate(SETTINGS, "test", 20, cache=tmp_path)
    scale = SETTINGS.image_size / SETTINGS.window
    expected = shortcut_features(data.images, data.markers * scale, 5.0 * scale)
    features = data.shortcut_features()
    for name, values in expected.items():
        np.testing.assert_array_equal(features.pop(name), values)
    cosines = np.asarray(data.headings, np.float64)
    (headings,) = features.values()
    np.testing.assert_allclose(headings, np.concatenate([cosines, cosines**2, cosines**3], 1))
    unknown = dataclasses.replace(data, headings=None).shortcut_features()
    assert unknown.keys() == expected.keys()
