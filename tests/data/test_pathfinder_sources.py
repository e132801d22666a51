"""The one config field that says where Pathfinder images come from."""

import numpy as np
import pytest
from PIL import Image

from common.data.pathfinder import PathfinderSettings, draw_images
from common.data.pathfinder.export import export
from common.data.pathfinder.sources import hold_in_memory, open_sources
from common.errors import DataError, UserError

SETTINGS = PathfinderSettings(
    image_size=32, contour_length=3, window=75.0, padding=6.0, seed_distance=12.0, distractors=3
)
COUNTS = {"train": 8, "validation": 4, "test": 4}


@pytest.fixture(scope="module", params=["tfds", "tfrecord", "folder"])
def exported(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    formats = {"tfds": "array_record", "tfrecord": "tfrecord", "folder": "png"}
    return request.param, export(SETTINGS, COUNTS, out, formats[request.param], workers=1)


def test_every_source_gives_the_images_that_were_written(exported):
    kind, path = exported
    sources = open_sources(kind, path, COUNTS, 32, seed=0)
    for number, (split, count) in enumerate(COUNTS.items()):
        drawn = draw_images(SETTINGS, number, 0, count)
        held = hold_in_memory(sources[split], SETTINGS)
        given = sorted(zip(held.labels, map(bytes, held.images), strict=True))
        assert given == sorted(zip(drawn.labels, map(bytes, drawn.images), strict=True))
    fingerprints = {source.fingerprint for source in sources.values()}
    assert len(fingerprints) == 3


def test_counts_choose_the_first_images(exported):
    kind, path = exported
    every = open_sources(kind, path, dict.fromkeys(COUNTS, -1), 32, seed=0)
    some = open_sources(kind, path, COUNTS | {"train": 5}, 32, seed=0)
    assert [len(every[split]) for split in COUNTS] == [8, 4, 4]
    assert len(some["train"]) == 5
    batch = some["train"].__getitems__(np.array([4, 0]))
    for row, index in enumerate((4, 0)):
        np.testing.assert_array_equal(batch["image"][row], every["train"][index]["image"])
    assert some["train"].fingerprint != every["train"].fingerprint
    with pytest.raises(DataError, match="8 train images; data.train_count asks for 9"):
        open_sources(kind, path, COUNTS | {"train": 9}, 32, seed=0)


@pytest.fixture
def one_set(tmp_path):
    images, labels, _, _ = draw_images(SETTINGS, 5, 0, 20)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = tmp_path / "imgs" / ("pos" if label else "neg")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"sample_{i}.png")
    return tmp_path


def test_one_set_of_images_is_dealt_out_without_overlap(one_set):
    counts = {"train": -1, "validation": 4, "test": 6}
    sources = open_sources("folder", one_set, counts, 32, seed=0)
    assert [len(sources[split]) for split in counts] == [10, 4, 6]
    images = [bytes(sources[s][i]["image"]) for s in counts for i in range(len(sources[s]))]
    assert len(set(images)) == 20
    again = open_sources("folder", one_set, counts, 32, seed=0)
    other = open_sources("folder", one_set, counts, 32, seed=1)
    assert again["test"].fingerprint == sources["test"].fingerprint != other["test"].fingerprint
    with pytest.raises(DataError, match="20 images; data.train_count asks for 11 of the 10 left"):
        open_sources("folder", one_set, counts | {"train": 11}, 32, seed=0)


def test_markers_are_looked_up(one_set):
    counts = {"train": -1, "validation": 0, "test": 0}
    held = hold_in_memory(open_sources("folder", one_set, counts, 32, 0)["train"], SETTINGS)
    drawn = draw_images(SETTINGS, 5, 0, 20)
    by_image = {bytes(image): m for image, m in zip(drawn.images, drawn.markers, strict=True)}
    for image, found in zip(held.images, held.markers, strict=True):
        true = by_image[bytes(image)]
        true = true[np.argsort(true[:, 0])]
        assert np.abs(found - true).max() < 1.5
    assert held.headings is None
    assert "headings at the markers" not in held.shortcut_features()


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"data.source is 'web'; choose one of \('generate'"):
        open_sources("web", tmp_path, COUNTS, 32, 0)
    with pytest.raises(DataError, match=r"data.path: .*nowhere is no folder"):
        open_sources("tfrecord", tmp_path / "nowhere", COUNTS, 32, 0)
    with pytest.raises(DataError, match=r"no train/\*\.tfrecord; expected the train images"):
        open_sources("tfrecord", tmp_path, COUNTS, 32, 0)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="no folder validation or val; expected"):
        (tmp_path / "train" / "imgs" / "pos").mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "train/imgs/pos/a.png")
        open_sources("folder", tmp_path, COUNTS, 32, 0)
