"""Folders of images that somebody already has."""

import io
import os
import shutil
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.data.folders import FolderImages
from common.data.images import IMAGENET_MEAN, IMAGENET_STD
from common.errors import DataError

REFERENCE = Path(__file__).parent / "reference_images"
REFERENCE_SET = REFERENCE / "curv_contour_length_14"
SIZE = 6


def pixels(number: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (size, size), np.uint8)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def save_table(path: Path, *rows: tuple[str, str, str]) -> None:
    """Writes rows of folder, file name and label in the columns of the public generator."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = [
        [folder, name, str(number), label, "1.8", "6", "2", "5", "2", "3", "1"]
        for number, (folder, name, label) in enumerate(rows)
    ]
    np.save(path, np.array(table))


def check(source: FolderImages, numbers: list[int], labels: list[int]) -> None:
    """Compares a source with the images `pixels(number)` and their labels."""
    assert len(source) == len(numbers)
    assert (source.labels.dtype, source.labels.tolist()) == (np.uint8, labels)
    for index, (number, label) in enumerate(zip(numbers, labels, strict=True)):
        example = source[index]
        np.testing.assert_array_equal(example["image"], pixels(number))
        assert example["image"].dtype == np.uint8
        assert (example["label"].dtype, example["label"]) == (np.int32, label)


@pytest.fixture
def named(tmp_path):
    """A set whose labels are the names of its folders."""
    root = tmp_path / "curv_contour_length_9"
    for folder, name, number in [
        ("pos", "sample_10.png", 1),
        ("pos", "sample_2.png", 2),
        ("neg", "sample_3.png", 3),
        ("neg", "b.PNG", 4),
    ]:
        save(root / "imgs" / folder / name, pixels(number))
    (root / "imgs" / "pos" / "._sample_2.png").write_bytes(b"what some systems leave behind")
    (root / "imgs" / "notes.txt").write_text("no image")
    return root


@pytest.fixture
def numbered(tmp_path):
    """A set whose labels stand in metadata, the rows out of order."""
    root = tmp_path / "set"
    save(root / "imgs" / "10" / "sample_0.png", pixels(1))
    save(root / "imgs" / "9" / "sample_10.png", pixels(2))
    save(root / "imgs" / "9" / "sample_9.png", pixels(3))
    save_table(root / "metadata" / "10.npy", ("imgs/10", "sample_0.png", "1"))
    rows = ("imgs/9", "sample_10.png", "0"), ("imgs/9", "sample_9.png", "1")
    save_table(root / "metadata" / "9.npy", *rows)
    return root


def test_labels_come_from_the_names_of_folders(named):
    for path in (named, named / "imgs", str(named)):
        check(FolderImages(path, SIZE), [4, 3, 2, 1], [0, 0, 1, 1])
    shutil.copytree(named / "imgs", named / "bare")
    check(FolderImages(named / "bare", SIZE), [4, 3, 2, 1], [0, 0, 1, 1])


def test_the_current_folder_is_a_path_too(named, monkeypatch):
    monkeypatch.chdir(named / "imgs")
    check(FolderImages(".", SIZE), [4, 3, 2, 1], [0, 0, 1, 1])


def test_labels_come_from_metadata(numbered):
    for path in (numbered, numbered / "imgs"):
        check(FolderImages(path, SIZE), [3, 2, 1], [1, 0, 1])
    table = np.load(numbered / "metadata" / "9.npy")
    np.save(numbered / "metadata" / "9.npy", table.astype("S"))  # as Python 2 wrote it
    check(FolderImages(numbered, SIZE), [3, 2, 1], [1, 0, 1])


def test_several_sets_come_one_after_the_other(named, tmp_path):
    save(tmp_path / "curv_contour_length_14" / "pos" / "x.png", pixels(7))
    check(FolderImages(tmp_path, SIZE), [4, 3, 2, 1, 7], [0, 0, 1, 1, 1])
    (tmp_path / "curv_baseline" / "imgs").mkdir(parents=True)
    with pytest.raises(DataError, match="curv_baseline: no images found, though"):
        FolderImages(tmp_path, SIZE)


def test_one_class_is_enough(named):
    shutil.rmtree(named / "imgs" / "neg")
    check(FolderImages(named, SIZE), [2, 1], [1, 1])


@pytest.mark.parametrize("path", [REFERENCE, REFERENCE_SET, REFERENCE_SET / "imgs"])
def test_reference_images_are_read_exactly(path):
    source = FolderImages(path, 300)
    assert source.labels.tolist() == [0, 0, 1, 1]
    names = ["neg/sample_2", "neg/sample_10", "pos/sample_2", "pos/sample_10"]
    for index, name in enumerate(names):
        with Image.open(REFERENCE_SET / "imgs" / f"{name}.png") as image:
            np.testing.assert_array_equal(source[index]["image"], np.asarray(image))


def test_images_are_resized_by_averaging_areas():
    large, small = (FolderImages(REFERENCE, size)[0]["image"] for size in (300, 100))
    means = large.reshape(100, 3, 100, 3).mean((1, 3))
    assert np.abs(small - means).max() <= 1  # rounded once per axis
    assert FolderImages(REFERENCE, 128)[0]["image"].shape == (128, 128)


def test_batches_are_gathered_like_single_examples(named):
    source = FolderImages(named, SIZE)
    batch = source.__getitems__(np.array([3, 0, 3]))
    np.testing.assert_array_equal(batch["image"], [pixels(1), pixels(4), pixels(1)])
    assert (batch["label"].dtype, batch["label"].tolist()) == (np.int32, [1, 0, 1])
    np.testing.assert_array_equal(source[-1]["image"], pixels(1))
    with pytest.raises(IndexError):
        source[4]


def test_equal_channels_are_grey_and_others_are_turned_grey(tmp_path):
    grey = pixels(0)
    save(tmp_path / "pos" / "1.png", np.stack([grey] * 3, -1))
    save(tmp_path / "pos" / "2.png", grey > 127)
    save(tmp_path / "pos" / "3.png", np.stack([grey, 0 * grey, 0 * grey], -1))
    source = FolderImages(tmp_path, SIZE)
    np.testing.assert_array_equal(source[0]["image"], grey)
    np.testing.assert_array_equal(source[1]["image"], 255 * (grey > 127))
    np.testing.assert_allclose(source[2]["image"], 0.299 * grey, atol=0.51)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_arrays_are_read(tmp_path, dtype, channels):
    grey = np.stack([pixels(number) for number in range(3)])
    images = np.broadcast_to(
        grey.reshape(3, SIZE, SIZE, *(1 for _ in channels)), [*grey.shape, *channels]
    )
    images = images if dtype == np.uint8 else (images / 255).astype(dtype)
    np.savez_compressed(tmp_path / "x.npz", pos=images[:1], neg=images[1:], more=np.arange(3))
    check(FolderImages(tmp_path / "x.npz", SIZE), [1, 2, 0], [0, 0, 1])


def test_arrays_may_differ_in_size_and_one_may_be_empty(tmp_path):
    empty, large = np.zeros((0, 9, 9), np.uint8), np.full((2, 9, 9), 7, np.uint8)
    np.savez(tmp_path / "x.npz", pos=empty, neg=large)
    source = FolderImages(tmp_path / "x.npz", 3)
    assert source.labels.tolist() == [0, 0]
    assert (source[1]["image"] == np.full((3, 3), 7)).all()


def test_the_fingerprint_changes_with_contents_names_and_labels(named, numbered, tmp_path):
    first = FolderImages(named, SIZE).fingerprint
    assert len(first) == 16 and int(first, 16) >= 0
    moved = shutil.copytree(named, tmp_path / "moved")
    os.utime(moved / "imgs" / "neg" / "sample_3.png", (0, 0))
    assert FolderImages(moved, SIZE).fingerprint == first
    changed = [first]
    (moved / "imgs" / "neg" / "sample_3.png").rename(moved / "imgs" / "neg" / "sample_4.png")
    changed.append(FolderImages(moved, SIZE).fingerprint)
    save(moved / "imgs" / "neg" / "sample_4.png", pixels(99))
    changed.append(FolderImages(moved, SIZE).fingerprint)
    changed.append(FolderImages(numbered, SIZE).fingerprint)
    save_table(numbered / "metadata" / "10.npy", ("imgs/10", "sample_0.png", "0"))
    changed.append(FolderImages(numbered, SIZE).fingerprint)
    for first, second in ((0, 1), (1, 0)):
        np.savez(tmp_path / "x.npz", pos=pixels(first)[None], neg=pixels(second)[None])
        changed.append(FolderImages(tmp_path / "x.npz", SIZE).fingerprint)
    assert len(set(changed)) == len(changed)


def refused(path: Path, message: str) -> None:
    """Checks that reading everything under `path` ends in one line that matches."""
    with pytest.raises(DataError, match=message) as caught:
        source = FolderImages(path, SIZE)
        for index in range(len(source)):
            source[index]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("folder", ["", "imgs", "imgs/pos", "curv_x", "curv_x/imgs"])
def test_a_folder_without_images_says_what_was_looked_for(tmp_path, folder):
    (tmp_path / "root" / folder).mkdir(parents=True)
    (tmp_path / "root" / folder / "notes.txt").write_text("no image")
    refused(tmp_path / "root", r"no images found; expected imgs/\{pos,neg\}/\*.png, imgs/<batch>")


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    refused(tmp_path / "none", "none: does not exist; expected a folder of images")
    refused(tmp_path / "x.png", "is no folder; expected a folder of images, or an .npz file")
    refused(tmp_path / "none.npz", "none.npz: does not exist")
    sizes: list[Any] = [0, True, 2.0, 4097]
    for size in sizes:
        with pytest.raises(DataError, match="image_size is"):
            FolderImages(REFERENCE, size)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("imgs/7", "a.png", "1")], "7/b.png: no row in .*7.npy; expected one for each file"),
        (
            [("imgs/7", "a.png", "1"), ("imgs/7", "b.png", "0"), ("imgs/7", "c.png", "0")],
            "7.npy: row 2: no file 'c.png' in .*7",
        ),
        ([("imgs/7", "a.png", "2")], "7.npy: row 0: label is '2'; expected 0 or 1"),
        ([("imgs/7", "a.png", "")], "row 0: label is ''; expected 0 or 1"),
        ([("imgs/7", "a.png", "1")] * 2, "7.npy: row 1: second row for 'a.png'; expected one"),
        ([("imgs/8", "a.png", "1")], "7.npy: row 0: folder is 'imgs/8'; expected one named '7'"),
        ([("imgs/7", "../x/a.png", "1")], "7.npy: row 0: no file '../x/a.png'"),
    ],
)
def test_faults_of_rows_are_named(tmp_path, rows, message):
    for name in ("a.png", "b.png"):
        save(tmp_path / "imgs" / "7" / name, pixels(0))
    save_table(tmp_path / "metadata" / "7.npy", *rows)
    refused(tmp_path, message)


def test_metadata_of_a_missing_folder_are_refused(numbered):
    shutil.rmtree(numbered / "imgs" / "9")
    refused(numbered, r"9.npy: rows for missing files; expected PNG files in .*imgs/9")


def test_a_batch_without_labels_is_refused(numbered):
    (numbered / "metadata" / "9.npy").unlink()
    refused(numbered, r"imgs/9: images without labels; expected .*metadata/9.npy, or folders named")


def test_a_folder_and_metadata_that_disagree_are_refused(named):
    rows = [("imgs/pos", "sample_2.png", "1"), ("imgs/pos", "sample_10.png", "0")]
    save_table(named / "metadata" / "pos.npy", *rows)
    refused(named, r"pos/sample_10.png: label is 0 in .*pos.npy, 1 by its folder")


def table_bytes(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no readable array; expected rows of strings"),
        (b"imgs/7 a.png 0 1", "no readable array"),
        (table_bytes(np.array([["imgs/7", "a.png", "0", "1"]]))[:-1], "no readable array"),
        (table_bytes(np.array([["a", 1]], object), True), "no readable array"),
        (table_bytes(np.array([["é".encode()] * 4])), "no readable array"),
        (table_bytes(np.zeros((1, 4))), r"is float64 \(1, 4\); expected rows of strings"),
        (table_bytes(np.array([["a.png", "0", "1"]])), r"is <U5 \(1, 3\); expected rows"),
        (table_bytes(np.array(["a.png", "0", "1"])), r"is <U5 \(3,\); expected rows"),
    ],
)
def test_other_metadata_are_refused(tmp_path, content, message):
    save(tmp_path / "imgs" / "7" / "a.png", pixels(0))
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "7.npy").write_bytes(content)
    refused(tmp_path, f"7.npy: {message}")


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A small file with right checksums that claims a size."""
    good = png_bytes(Image.new("L", (1, 1)))
    header = b"IHDR" + struct.pack(">II", width, height) + good[24:29]
    return good[:12] + header + struct.pack(">I", zlib.crc32(header)) + good[33:]


GOOD = png_bytes(Image.fromarray(pixels(0)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no PNG file by its first bytes"),
        (b"GIF89a" + bytes(50), "no PNG file by its first bytes"),
        (GOOD[:20], "no PNG file by its first bytes"),
        (GOOD[:40], "damaged or cut-off PNG file"),
        (GOOD[:-13], "damaged or cut-off PNG file"),
        (bomb(4097, 4097), "image is 4097 x 4097; expected a side of 1 to 4096 pixels"),
        (bomb(2**31 - 1, 2**31 - 1), "image is 2147483647 x 2147483647; expected a side"),
        (bomb(0, 0), "image is 0 x 0; expected a side"),
        (bomb(4096, 4096), "damaged or cut-off PNG file"),
        (png_bytes(Image.new("L", (6, 5))), "image is 6 x 5; expected a square"),
        (png_bytes(Image.new("I;16", (6, 6))), "image mode is I;16; expected 8-bit grey or RGB"),
        (png_bytes(Image.new("RGBA", (6, 6))), "image mode is RGBA; expected 8-bit grey or RGB"),
    ],
)
def test_faults_of_a_png_file_are_named(tmp_path, content, message):
    save(tmp_path / "pos" / "1.png", pixels(0))
    (tmp_path / "pos" / "2.png").write_bytes(content)
    refused(tmp_path, rf"pos/2\.png: {message}")


def test_no_flipped_byte_of_a_png_file_changes_an_image(tmp_path):
    path = tmp_path / "pos" / "1.png"
    save(path, pixels(0))
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    found = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            np.testing.assert_array_equal(FolderImages(tmp_path, SIZE)[0]["image"], pixels(0))
        except DataError:
            found += 1
    assert found >= len(content) - 12  # the last chunk is empty


def test_a_file_that_vanished_is_named(named):
    source = FolderImages(named, SIZE)
    (named / "imgs" / "neg" / "b.PNG").unlink()
    with pytest.raises(DataError, match=r"b\.PNG: does not exist"):
        source[0]


ZEROS = np.zeros((2, 4, 4))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pos": ZEROS}, "no array 'neg'; expected 'pos' and 'neg'; arrays: pos"),
        ({"neg": ZEROS, "x": ZEROS}, "no array 'pos'; expected 'pos' and 'neg'; arrays: neg, x"),
        ({}, "no array 'neg'; expected 'pos' and 'neg'; arrays: none"),
        ({"pos": ZEROS, "neg": ZEROS.astype(object)}, "no readable .npz file of numbers"),
        ({"pos": ZEROS, "neg": ZEROS.astype(int)}, "'neg' is int64; expected uint8, or floats"),
        ({"pos": ZEROS, "neg": ZEROS > 0}, "'neg' is bool; expected uint8, or floats"),
        ({"pos": ZEROS, "neg": ZEROS[0]}, r"'neg' has shape \(4, 4\); expected \(n, h, w\) or"),
        ({"pos": ZEROS, "neg": ZEROS[..., None]}, r"'neg' has shape \(2, 4, 4, 1\); expected"),
        ({"pos": ZEROS[:, 1:], "neg": ZEROS}, "'pos': image is 4 x 3; expected a square"),
        ({"pos": ZEROS[:, :0, :0], "neg": ZEROS}, "'pos': image is 0 x 0; expected a side of 1"),
        ({"pos": ZEROS[:0], "neg": ZEROS[:0]}, "no images; expected some in 'pos' or 'neg'"),
        ({"pos": ZEROS, "neg": ZEROS + [[[0]], [[1.1]]]}, "'neg': image 1 has values outside of"),
        ({"pos": ZEROS, "neg": ZEROS - 1}, "'neg': image 0 has values outside of 0 to 1"),
        ({"pos": ZEROS * np.nan, "neg": ZEROS}, "'pos': image 0 has values outside of 0 to 1"),
    ],
)
def test_faults_of_arrays_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    refused(tmp_path / "x.npz", f"x.npz: .*{message}")


def test_other_files_are_no_arrays(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, pos=np.stack([pixels(0, 40)]), neg=np.stack([pixels(1, 40)]))
    content = path.read_bytes()
    middle = bytearray(content)
    middle[len(content) // 4] ^= 0x55
    claims = np.lib.format.header_data_from_array_1_0(np.zeros(1)) | {"shape": (2**45, 9, 9)}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, claims)
    for damaged in (b"", b"text", content[:-30], content[:99], bytes(middle), table_bytes(ZEROS)):
        path.write_bytes(damaged)
        refused(path, "x.npz: no readable .npz file of numbers; expected the arrays")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pos.npy", buffer.getvalue())
        archive.writestr("neg.npy", buffer.getvalue())
    refused(path, "x.npz: no readable .npz file of numbers")


def test_one_image_of_each_label_as_the_notebooks_hold_them(tmp_path):
    grey = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)
    scaled = np.repeat(grey[..., None] / np.float32(255), 3, -1)
    normalised = (scaled - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    np.savez(tmp_path / "x.npz", pos=scaled, neg=normalised)
    source = FolderImages(tmp_path / "x.npz", SIZE)
    assert source.labels.tolist() == [0, 1]
    for index in range(2):
        np.testing.assert_array_equal(source[index]["image"], grey)
    np.savez(tmp_path / "x.npz", pos=scaled, neg=normalised - 1)
    refused(tmp_path / "x.npz", "'neg': image 0 has values outside of -2.2 to 2.7")
