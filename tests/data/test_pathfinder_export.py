"""Pathfinder data sets on disk: what is written, and what becomes of it when it is interrupted."""

import errno
import functools
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.folders import FolderImages
from common.data.images import normalise_grey
from common.data.pathfinder import PathfinderSettings, draw_images, split_seed
from common.data.pathfinder import export as export_module
from common.data.pathfinder import shards as shards_module
from common.data.pathfinder.export import export
from common.data.pathfinder.manifest import find_damage, read_manifest
from common.data.pathfinder.shards import FORMATS, plan_shards
from common.data.pathfinder.workers import map_in_processes
from common.data.records import read_records
from common.data.tfrecord import decode_example, read_tfrecord
from common.errors import DataError, UserError

SETTINGS = PathfinderSettings(image_size=32, contour_length=6, window=150.0, padding=11.0)
COUNTS = {"train": 20, "validation": 4, "test": 6}
export_here = functools.partial(export, SETTINGS, workers=0, shard_size=8)


def contents(folder):
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def drawn(split, count=None):
    return draw_images(SETTINGS, split_seed(0, split), 0, count or COUNTS[split])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    return {format: export_here(COUNTS, out, format) for format in FORMATS}


def test_array_records_hold_the_images_labels_and_markers_drawn(made):
    tfds = pytest.importorskip("tensorflow_datasets")
    for split in COUNTS:
        source = tfds.builder_from_directory(made["array_record"]).as_data_source(split)
        expected = drawn(split)
        assert len(source) == COUNTS[split]
        for i in range(len(source)):
            assert source[i]["image"].shape == (32, 32, 1)
            np.testing.assert_array_equal(source[i]["image"][..., 0], expected.images[i])
            assert source[i]["label"] == expected.labels[i]
            pixels = expected.markers[i] * np.float32(32 / SETTINGS.window)
            np.testing.assert_array_equal(source[i]["markers"], pixels)


def test_markers_lie_on_light(made):
    expected = drawn("train")
    rows, columns = (expected.markers * (32 / SETTINGS.window)).astype(int).reshape(-1, 2).T
    lit = np.repeat(expected.images, 2, 0)[np.arange(len(rows)), rows, columns]
    assert lit.min() > 127


def test_tfrecords_are_those_of_the_notebooks(made):
    folder = made["tfrecord"]
    assert folder.name == "difficulty_6"
    record = decode_example(next(read_tfrecord(folder / "val" / "shard_00000.tfrecord")))
    assert {name: record[name] for name in ("label", "height", "width", "channels")} == {
        "label": [1],
        "height": [32],
        "width": [32],
        "channels": [3],
    }
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        images, labels = zip(*read_records(folder / name, 32), strict=True)
        wanted = np.asarray(normalise_grey(drawn(split).images))
        np.testing.assert_allclose(np.stack(images), wanted, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(labels, drawn(split).labels)
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["total_samples"] == 30 and metadata["val_samples"] == 4


def test_png_folders_are_read_as_the_public_ones(made):
    folder = made["png"]
    assert folder.name == "curv_contour_length_6"
    for split in COUNTS:
        expected = drawn(split)
        for label, name in enumerate(("neg", "pos")):
            paths = [folder / split / "imgs" / name / f"sample_{k}.png" for k in range(2)]
            for path, image in zip(paths, expected.images[1 - label :: 2], strict=False):
                np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
        source = FolderImages(folder / split, 32)
        half = COUNTS[split] // 2
        assert len(source) == 2 * half and source.labels.sum() == half
        order = [*range(1, 2 * half, 2), *range(0, 2 * half, 2)]  # neg, then pos
        images = source.__getitems__(range(2 * half))["image"]
        np.testing.assert_array_equal(images, expected.images[order])
    rows = np.load(folder / "train" / "metadata" / "pos.npy")
    assert rows.shape == (10, 11)
    distractor_length = str(SETTINGS.distractor_length)
    assert rows[1].tolist() == [
        *("imgs/pos", "sample_1.png", "1", "1", "1.8", "6", distractor_length, "5", "2", "3", "1")
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_the_bytes_depend_neither_on_the_processes_nor_on_the_folder(made, format, tmp_path):
    workers = {"array_record": 2, "tfrecord": 1, "png": 2}[format]
    folder = export(SETTINGS, COUNTS, tmp_path, format, workers=workers, shard_size=8)
    assert contents(folder) == contents(made[format])
    assert find_damage(folder) == []


def test_the_manifest_names_every_file(made):
    for format, folder in made.items():
        manifest = read_manifest(folder)
        assert manifest["settings"]["contour_length"] == 6 and manifest["seed"] == 0
        assert sum(entry["count"] for entry in manifest["shards"]) == 30
        files = {file for s in plan_shards(COUNTS, 8) for file in FORMATS[format].files(s)}
        files |= {entry["file"] for entry in manifest["files"]} | {"manifest.json"}
        assert files == set(contents(folder))


def test_a_second_run_changes_nothing(tmp_path):
    folder = export_here(COUNTS, tmp_path, "array_record")
    before = {path: os.stat(path) for path in folder.iterdir()}
    calls = []
    export_here(COUNTS, tmp_path, "array_record", report=lambda *x: calls.append(x))
    assert {path: os.stat(path).st_ino for path in folder.iterdir()} == {
        path: stat.st_ino for path, stat in before.items()
    }
    assert calls == [(30, 30)]


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_missing_or_damaged_is_found_and_made_again(made, format, tmp_path):
    folder = export_here(COUNTS, tmp_path, format)
    manifest = read_manifest(folder)
    shards = plan_shards(COUNTS, 8)
    cut, flipped, gone = (folder / FORMATS[format].files(shards[i])[0] for i in (0, 1, 3))
    cut.write_bytes(cut.read_bytes()[:-1])
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    gone.unlink()
    (folder / manifest["files"][0]["file"]).unlink()
    lines = find_damage(folder)
    assert len(lines) == 4
    assert "bytes, not" in lines[0] and "SHA-256" in lines[1]
    assert "missing" in lines[2] and "missing" in lines[3]
    export_here(COUNTS, tmp_path, format)
    assert contents(folder) == contents(made[format])


def test_other_arguments_are_refused(tmp_path):
    folder = export_here(COUNTS, tmp_path, "png")
    before = contents(folder)
    with pytest.raises(UserError, match="with seed 0, not 1;"):
        export_here(COUNTS, tmp_path, "png", seed=1)
    with pytest.raises(UserError, match="with counts.train 20, not 18;"):
        export_here({**COUNTS, "train": 18}, tmp_path, "png")
    wider = PathfinderSettings(image_size=32, contour_length=6, window=160.0, padding=11.0)
    with pytest.raises(UserError, match=r"with settings.window 150.0, not 160.0;"):
        export(wider, COUNTS, tmp_path, "png", workers=0, shard_size=8)
    with pytest.raises(UserError, match="with shard_size 8, not 16;"):
        export(SETTINGS, COUNTS, tmp_path, "png", workers=0, shard_size=16)
    assert contents(folder) == before


def test_bad_arguments_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="format is 'parquet'; choose one of array_record"):
        export_here(COUNTS, tmp_path, "parquet")
    with pytest.raises(UserError, match="train count is 3; it must be even"):
        export_here({"train": 3}, tmp_path, "png")
    with pytest.raises(UserError, match="split is 'val'; choose one of train"):
        export_here({"val": 4}, tmp_path, "png")
    (tmp_path / "difficulty_6").mkdir()
    (tmp_path / "difficulty_6" / "mine").write_text("")
    with pytest.raises(UserError, match="holds files that are no export"):
        export_here(COUNTS, tmp_path, "tfrecord")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file"):
        export_here(COUNTS, tmp_path / "file", "png")
    with pytest.raises(DataError, match=r"manifest\.json: does not exist"):
        find_damage(tmp_path)


@pytest.mark.parametrize("format", ["array_record", "png"])
def test_a_full_disk_is_told_in_one_line_and_keeps_what_is_finished(
    made, format, tmp_path, monkeypatch
):
    calls = []

    def encode(image):
        calls.append(image)
        if len(calls) == 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return encode_png(image)

    encode_png = shards_module.encode_png
    monkeypatch.setattr(shards_module, "encode_png", encode)
    with pytest.raises(UserError, match="No space left on device; finished shards are kept") as e:
        export_here(COUNTS, tmp_path, format)
    assert "\n" not in str(e.value)
    folder = tmp_path / FORMATS[format].folder(SETTINGS)
    whole = contents(made[format])
    kept = contents(folder)
    kept.pop("progress.jsonl")
    assert kept and all(whole[name] == data for name, data in kept.items())
    monkeypatch.undo()
    calls = []
    export_here(COUNTS, tmp_path, format, report=lambda *x: calls.append(x))
    assert calls[0] == (16, 30)
    assert contents(folder) == whole


def test_two_exports_into_one_folder_are_refused(tmp_path):
    def report(done, total):
        with pytest.raises(UserError, match="another export is writing there"):
            export_here(COUNTS, tmp_path, "png")

    export_here(COUNTS, tmp_path, "png", report=report)


def test_a_torn_note_costs_one_shard(made, tmp_path):
    def stop(done, total):
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_here(COUNTS, tmp_path, "tfrecord", report=stop)
    progress = tmp_path / "difficulty_6" / export_module.PROGRESS
    progress.write_text(progress.read_text()[:-20])
    calls = []
    folder = export_here(COUNTS, tmp_path, "tfrecord", report=lambda *x: calls.append(x))
    assert calls[0] == (8, 30)
    assert contents(folder) == contents(made["tfrecord"])


CHILD = """
import sys
from common.data.pathfinder import PathfinderSettings
from common.data.pathfinder.export import export
if __name__ == "__main__":
    settings = PathfinderSettings(image_size=32, contour_length=6, window=150.0, padding=11.0)
    export(settings, {"train": 600}, sys.argv[1], sys.argv[2], workers=1, shard_size=4)
"""


@pytest.mark.parametrize("format", ["array_record", "png"])
def test_killed_in_the_middle_it_goes_on_and_ends_as_if_it_had_not_been(format, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    root = Path(__file__).parents[2]
    folder = tmp_path / "killed" / FORMATS[format].folder(SETTINGS)
    child = subprocess.Popen(
        [sys.executable, script, tmp_path / "killed", format],
        env=os.environ | {"PYTHONPATH": str(root)},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    notes = folder / export_module.PROGRESS
    while not (notes.exists() and notes.read_text().count("sha256") > 9):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    time.sleep(0.3)  # the orphaned worker sees it, and leaves
    with pytest.raises(DataError):
        read_manifest(folder)
    stats = {path: os.stat(path) for path in folder.rglob("*") if ".partial" not in path.parts}
    found = contents(folder)
    noted = [json.loads(line) for line in notes.read_text().splitlines()[1:] if line]
    assert 9 < len(noted) < 150

    whole = export(SETTINGS, {"train": 600}, tmp_path / "whole", format, workers=0, shard_size=4)
    expected = contents(whole)
    for name, data in found.items():
        assert name == notes.name or name.startswith(".partial") or expected[name] == data
    export(SETTINGS, {"train": 600}, tmp_path / "killed", format, workers=0, shard_size=4)
    assert contents(folder) == expected
    names = {note["name"] for note in noted}
    for shard in plan_shards({"train": 600}, 4):
        for file in FORMATS[format].files(shard) if shard.name in names else ():
            if folder / file in stats:  # the last one may be noted and not yet named
                before, now = stats[folder / file], os.stat(folder / file)
                assert (before.st_ino, before.st_mtime_ns) == (now.st_ino, now.st_mtime_ns)


def test_a_failing_or_dying_worker_is_told_in_one_line():
    roots = []
    with pytest.raises(UserError, match="^ValueError: [^\n]*$") as error:
        for root in map_in_processes(math.sqrt, [4.0, 9.0, -1.0], 1):
            roots.append(root)
    assert roots == [2, 3]
    assert "Traceback" in str(error.value.__cause__)
    with pytest.raises(UserError, match="ended by SIGKILL; out of memory, perhaps"):
        list(map_in_processes(signal.raise_signal, [signal.SIGKILL], 1))


def test_interrupt_while_a_worker_starts_is_not_lost(monkeypatch):
    process = multiprocessing.get_context("spawn").Process
    start = process.start

    def interrupted_start(self):
        os.kill(os.getpid(), signal.SIGINT)
        start(self)

    monkeypatch.setattr(process, "start", interrupted_start)
    with pytest.raises(KeyboardInterrupt):
        list(map_in_processes(abs, [1, 2], 1))
