"""One way to read images from wherever they lie."""

import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from common.data import normalise_grey, read_records
from common.data.folders import FolderImages
from common.data.tfrecord import TFRecordWriter, encode_example
from common.errors import DataError

REFERENCE = Path(__file__).parent / "reference_images"
SIZE = 4


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(SIZE, SIZE, 3)).astype(np.float32)


def write(path: Path, *numbers: int) -> Path:
    """Writes a TFRecord file of images `image(number)`, labelled by parity."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TFRecordWriter(path) as writer:
        for number in numbers:
            features = {"image": image(number).astype("<f4").tobytes(), "label": number % 2}
            writer.write(encode_example(features))
    return path


def check(path: Path, numbers: list[int]) -> None:
    records = list(read_records(path, SIZE))
    assert len(records) == len(numbers)
    for number, (found, label) in zip(numbers, records, strict=True):
        np.testing.assert_array_equal(found, image(number))
        assert (found.dtype, label, type(label)) == (np.float32, number % 2, int)


@pytest.mark.parametrize("name", ["x.tfrecord", "x.tfrecords", "x.tfrecord-00000-of-00010"])
def test_a_tfrecord_file_is_read(tmp_path, name):
    path = write(tmp_path / name, 1, 2, 3)
    check(path, [1, 2, 3])
    check(tmp_path, [1, 2, 3])


def test_folders_of_tfrecord_files_are_read_in_the_order_of_their_paths(tmp_path):
    root = tmp_path / "difficulty_14"
    write(root / "val" / "shard_00000.tfrecord", 5)
    write(root / "train" / "shard_00001.tfrecord", 4, 2)
    write(root / "train" / "shard_00000.tfrecord", 3)
    write(root / "test" / "x.tfrecord-00001-of-00002", 1)
    write(root / "test" / "x.tfrecord-00000-of-00002", 8)
    write(root / "train" / ".shard_00002.tfrecord.tmp-0", 6)
    write(root / "train" / ".shard_00002.tfrecord", 6)
    write(root / ".hidden" / "shard.tfrecord", 6)
    (root / "metadata.json").write_text("{}")
    check(root, [8, 1, 3, 4, 2, 5])
    check(root / "train", [3, 4, 2])


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "elsewhere" / "x.tfrecord", 1)
    root = tmp_path / "root"
    root.mkdir()
    (root / "train").symlink_to(tmp_path / "elsewhere")
    (root / "circle").symlink_to(root)
    check(root, [1])


@pytest.mark.parametrize("size", [300, 64])
def test_grey_images_are_normalised_as_for_the_models(size):
    source = FolderImages(REFERENCE, size)
    records = list(read_records(REFERENCE, size))
    assert [label for _, label in records] == source.labels.tolist() == [0, 0, 1, 1]
    for index, (found, _) in enumerate(records):
        assert (found.shape, found.dtype) == ((size, size, 3), np.float32)
        wanted = np.asarray(normalise_grey(jnp.asarray(source[index]["image"])))
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_arrays_are_normalised_as_for_the_models(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE), np.uint8)
    np.savez(tmp_path / "x.npz", pos=grey[:2], neg=grey[2:])
    records = list(read_records(tmp_path / "x.npz", SIZE))
    assert [label for _, label in records] == [0, 1, 1]
    for (found, _), wanted in zip(records, grey[[2, 0, 1]], strict=True):
        np.testing.assert_allclose(
            found, np.asarray(normalise_grey(jnp.asarray(wanted))), rtol=1e-6, atol=1e-6
        )


def test_a_fault_in_a_later_record_is_named_after_the_good_ones(tmp_path):
    path = write(tmp_path / "x.tfrecord", 1, 2, 3)
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    records = read_records(path, SIZE)
    assert [label for _, label in (next(records), next(records))] == [1, 0]
    with pytest.raises(DataError, match=r"x\.tfrecord: record 2: wrong checksum of the data"):
        next(records)


def test_a_fault_of_the_contents_is_named_by_record(tmp_path):
    path = write(tmp_path / "x.tfrecord", 1)
    with pytest.raises(
        DataError, match=r"x\.tfrecord: record 0: image has 192 bytes; expected 300"
    ):
        next(read_records(path, 5))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "none: does not exist; expected \\*.tfrecord, \\*.npz, or a folder with"),
        ("none.tfrecord", "none.tfrecord: does not exist"),
        ("none.npz", "none.npz: does not exist"),
        ("notes.txt", "notes.txt: a file of another kind; expected \\*.tfrecord"),
        ("empty", r"empty: nothing known in this folder; expected .* imgs/\{pos,neg\}/\*.png"),
        ("empty.tfrecord", "empty.tfrecord: empty file; expected TFRecords"),
        ("n" * 300, "does not exist"),
    ],
)
def test_other_paths_are_refused(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "empty.tfrecord").write_bytes(b"")
    with pytest.raises(DataError, match=message) as caught:
        next(read_records(tmp_path / name, SIZE))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, -4, True, 4.0, "4", None, 10**6])
def test_other_sizes_are_refused(size):
    with pytest.raises(DataError, match="image_size is .*; expected a whole number from 1 to 4096"):
        next(read_records(REFERENCE, size))


def test_a_set_with_a_damaged_image_stops_there(tmp_path):
    root = shutil.copytree(REFERENCE, tmp_path / "root")
    path = root / "curv_contour_length_14" / "imgs" / "neg" / "sample_10.png"
    path.write_bytes(path.read_bytes()[:2000])
    records = read_records(root, SIZE)
    assert next(records)[1] == 0
    with pytest.raises(DataError, match=r"neg/sample_10\.png: damaged or cut-off PNG file"):
        next(records)


def test_importing_the_package_loads_neither_tensorflow_nor_torch():
    code = "import sys, common.data; print(sorted({'tensorflow', 'torch'} & set(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "[]\n"
