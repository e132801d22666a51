"""Pathfinder by TensorFlow Datasets, without TensorFlow."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.data.pathfinder import PathfinderSettings, draw_images, split_seed
from common.data.pathfinder.examples import config_name, encode_png
from common.data.pathfinder.export import export
from common.errors import DataError

tfds = pytest.importorskip("tensorflow_datasets")
from common.data.pathfinder.tfds_builder import (  # noqa: E402
    Pathfinder,
    PathfinderConfig,
    make_features,
)
from common.data.pathfinder.tfds_source import TfdsImages  # noqa: E402

SETTINGS = PathfinderSettings(image_size=32, contour_length=6, window=150.0, padding=11.0)
COUNTS = {"train": 20, "validation": 4, "test": 4}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    out = tmp_path_factory.mktemp("exported")
    return export(SETTINGS, COUNTS, out, "array_record", workers=0, shard_size=8)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    config = PathfinderConfig(name="small", settings=SETTINGS, counts=COUNTS)
    builder = Pathfinder(config=config, data_dir=str(tmp_path_factory.mktemp("prepared")))
    builder.download_and_prepare(file_format="array_record")
    return builder


def test_the_builder_prepares_what_the_export_writes(exported, prepared):
    ours = tfds.builder_from_directory(exported)
    for split in COUNTS:
        pairs = zip(ours.as_data_source(split), prepared.as_data_source(split), strict=True)
        for one, other in pairs:
            assert one["label"] == other["label"]
            np.testing.assert_array_equal(one["image"], other["image"])
            np.testing.assert_array_equal(one["markers"], other["markers"])
    files = [Path(folder) / "features.json" for folder in (exported, prepared.data_path)]
    assert len({file.read_text() for file in files}) == 1
    assert ours.info.features.keys() == make_features(32).keys()
    assert ours.info.splits["train"].num_examples == 20


def test_configs_cover_lengths_layouts_and_sizes():
    names = set(Pathfinder.builder_configs)
    assert {"6_matched_64", "14_matched_128", "14_reference_224", "25_matched_300"} <= names
    for name, config in Pathfinder.builder_configs.items():
        assert name == config_name(config.settings)
        assert all(count % 2 == 0 for count in config.counts.values())


def test_an_export_is_found_by_the_builders_name(tmp_path):
    settings = PathfinderSettings(image_size=64, contour_length=6)
    export(settings, {"test": 4}, tmp_path, "array_record", workers=0)
    source = tfds.data_source("pathfinder/6_matched_64", data_dir=tmp_path, split="test")
    images = draw_images(settings, split_seed(0, "test"), 0, 4).images
    np.testing.assert_array_equal(np.stack([x["image"][..., 0] for x in source]), images)


@pytest.mark.parametrize("which", ["exported", "prepared"])
def test_the_source_gives_single_examples_and_batches(which, exported, prepared):
    source = TfdsImages(exported if which == "exported" else prepared.data_path, "train", 32)
    images, labels = draw_images(SETTINGS, split_seed(0, "train"), 0, 20)[:2]
    assert len(source) == 20
    assert source[3]["image"].dtype == np.uint8 and source[3]["label"].dtype == np.int32
    np.testing.assert_array_equal(source[-1]["image"], images[19])
    batch = source.__getitems__(np.array([5, 0, 5]))
    np.testing.assert_array_equal(batch["image"], images[[5, 0, 5]])
    np.testing.assert_array_equal(batch["label"], labels[[5, 0, 5]])
    np.testing.assert_array_equal(source.labels, labels)
    with pytest.raises(IndexError):
        source[20]


def test_the_fingerprint_follows_split_and_data(exported, prepared, tmp_path):
    prints = [TfdsImages(exported, split).fingerprint for split in ("train", "test", "train[:4]")]
    other = export(SETTINGS, COUNTS, tmp_path, "array_record", seed=1, workers=0)
    prints += [TfdsImages(other, "train").fingerprint]
    prints += [TfdsImages(prepared.data_path, "train").fingerprint]
    assert len(set(prints)) == 5
    assert TfdsImages(exported, "train").fingerprint == prints[0]
    assert TfdsImages(exported.parents[1], "train").fingerprint == prints[0]


def test_missing_folders_splits_and_sizes_are_named(exported, tmp_path):
    with pytest.raises(DataError, match="gone: does not exist; expected a folder"):
        TfdsImages(tmp_path / "gone")
    with pytest.raises(DataError, match=r"no dataset_info\.json there"):
        TfdsImages(tmp_path)
    with pytest.raises(DataError, match="nonesuch: neither a folder nor a data set"):
        TfdsImages("nonesuch")
    with pytest.raises(DataError, match="14_matched_128: is not prepared"):
        TfdsImages("pathfinder/14_matched_128")
    with pytest.raises(DataError, match="no such split; there are train, validation, test"):
        TfdsImages(exported, "valid")
    with pytest.raises(DataError, match="images are 32 x 32; expected 64 x 64"):
        TfdsImages(exported, "train", 64)
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match=r"its dataset_info\.json cannot be used"):
        TfdsImages(tmp_path)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"no picture", "record 0: the image cannot be decoded"),
        (encode_png(np.zeros((8, 8), np.uint8)), "record 0: image is 8 x 8; expected 32 squared"),
    ],
)
def test_a_record_that_is_no_such_image_is_named(image, message, tmp_path, monkeypatch):
    from common.data.pathfinder import shards

    monkeypatch.setattr(shards, "encode_png", lambda _: image)
    folder = export(SETTINGS, {"test": 2}, tmp_path, "array_record", workers=0)
    with pytest.raises(DataError, match=message):
        TfdsImages(folder, "test")[0]


def test_damaged_records_are_named(exported, tmp_path):
    folder = export(SETTINGS, {"test": 40}, tmp_path, "array_record", workers=0)
    (shard,) = folder.glob("*array_record-00000*")
    data = bytearray(shard.read_bytes())
    data[200:2000] = bytes(1800)
    shard.write_bytes(data)
    with pytest.raises(DataError, match="test: record|test: cannot be opened"):
        TfdsImages(folder, "test").__getitems__(range(40))


def test_importing_the_generator_brings_in_neither_tfds_nor_tensorflow():
    code = (
        "import sys, json, common.data.pathfinder, common.data.pathfinder.export as e;"
        "print(json.dumps([m for m in sys.modules if m.startswith('tensorflow')]))"
    )
    run = functools.partial(subprocess.run, check=True, capture_output=True, text=True)
    loaded = run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).stdout
    assert json.loads(loaded) == []
    assert "tensorflow" not in sys.modules
