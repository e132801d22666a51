"""Pathfinder images that somebody already has: folders of PNG files, or arrays in one file.

A set is a folder `imgs/<batch>/*.png`, where a batch's labels stand in `metadata/<batch>.npy` or,
without that file, in its name, `pos` (1) or `neg` (0). The metadata are those of the public
generator: rows of strings that begin with folder, file name, number and label.
"""

import functools
import hashlib
import io
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from common.data.images import denormalise
from common.data.tfrecord import MAX_SIDE, check_image_size
from common.errors import DataError
from common.files import StrPath, open_data_file

LAYOUTS = (
    "imgs/{pos,neg}/*.png, imgs/<batch>/*.png with metadata/<batch>.npy, {pos,neg}/*.png, "
    "or folders curv_* of these"
)
NORMALISED_RANGE = (-2.2, 2.7)  # of black and white, less ImageNet's mean over its deviation
LABELS_OF_NAMES = {"neg": 0, "pos": 1}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_FILE_BYTES = 4 * MAX_SIDE**2


class FolderImages:
    """Labelled grey images in a folder or an `.npz` file, as a random-access source of examples.

    A folder is a set, its `imgs`, or a folder of sets `curv_*`, which are taken one after the
    other; see the module. Sets, batches and files come in natural order, sample_2 before
    sample_10. An `.npz` file holds the arrays `neg` and `pos`, which come in this order, each (n,
    h, w) or (n, h, w, 3), uint8 or floats from 0 to 1. Images must be square; those of another
    size are resized by averaging areas, coloured ones turned grey.

    Args:
        path: The folder or file.
        image_size: Height and width of the examples.

    Attributes:
        labels: (n,) uint8.

    Raises:
        DataError: The data cannot be used. Files, labels and metadata are checked on construction,
            the contents of a PNG file when it is read.
    """

    def __init__(self, path: StrPath, image_size: int):
        self.image_size = check_image_size(image_size)
        path = Path(path)
        self._images = _Arrays(path) if path.suffix.lower() == ".npz" else _Files(path)
        self.labels = np.array(self._images.labels, np.uint8)

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns one example: 'image' (s, s) uint8 and 'label' int32."""
        position = range(len(self))[index]
        image = self._images.read(position).convert("L")
        size = (self.image_size, self.image_size)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BOX)
        return {"image": np.array(image), "label": np.asarray(self.labels[position], np.int32)}

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Returns the examples at `indices` (b,) as one batch."""
        examples = [self[index] for index in indices]
        return {name: np.stack([e[name] for e in examples]) for name in ("image", "label")}

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with names, contents or labels. The first use reads all."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self.labels.tobytes())
        for line in self._images.identity():
            digest.update(f"{line}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]


class _Files:
    """Images in PNG files."""

    def __init__(self, path: Path):
        self.paths: list[Path] = []
        self.labels: list[int] = []
        self._root = path
        sets = find_image_sets(path)
        if not sets:
            raise DataError(f"{path}: no images found; expected {LAYOUTS}")
        for folder in sets:
            for files, labels in _labelled_batches(folder):
                self.paths += files
                self.labels += labels

    def read(self, index: int) -> Image.Image:
        return read_png(self.paths[index])

    def identity(self) -> Iterator[str]:
        for path in self.paths:
            data = _file_bytes(path)
            yield f"{path.relative_to(self._root)}\0{len(data)}\0{zlib.crc32(data)}"


class _Arrays:
    """Images in the arrays 'neg' and 'pos' of an npz file."""

    def __init__(self, path: Path):
        arrays = _load_npz(path)
        self._images = [image for name in LABELS_OF_NAMES for image in arrays[name]]
        self.labels = [label for name, label in LABELS_OF_NAMES.items() for _ in arrays[name]]
        if not self.labels:
            raise DataError(f"{path}: no images; expected some in 'pos' or 'neg'")

    def read(self, index: int) -> Image.Image:
        image = self._images[index]
        if image.dtype != np.uint8:
            image = image.astype(np.float32)
            in_range = image.min() >= 0 and image.max() <= 1
            image = np.rint(image * 255).astype(np.uint8) if in_range else denormalise(image)
        return Image.fromarray(image)

    def identity(self) -> Iterator[str]:
        for image in self._images:
            yield f"{image.dtype}\0{image.shape}\0{zlib.crc32(image.tobytes())}"


def find_image_sets(path: Path) -> list[Path]:
    """Returns the folders under `path` whose subfolders hold PNG files, or an empty list.

    Raises:
        DataError: The path does not exist, is no folder or cannot be read, or only some of its
            folders `curv_*` hold images.
    """
    if not os.path.exists(path):
        raise DataError(f"{path}: does not exist; expected a folder of images")
    if not os.path.isdir(path):
        raise DataError(f"{path}: is no folder; expected a folder of images, or an .npz file")
    if own := _image_set(path):
        return [own]
    members = [folder for folder in _children(path) if folder.name.startswith("curv_")]
    sets = [_image_set(folder) for folder in members]
    if any(sets) and not all(sets):
        empty = members[sets.index(None)]
        raise DataError(f"{empty}: no images found, though there are some in its siblings")
    return [found for found in sets if found]


def _image_set(path: Path) -> Path | None:
    return next((folder for folder in (path / "imgs", path) if _batches(folder)), None)


def _batches(folder: Path) -> list[Path]:
    """Returns the subfolders that hold PNG files, in natural order."""
    return [child for child in _children(folder) if _children(child, ".png")]


def _children(folder: Path, suffix: str = "") -> list[Path]:
    """Returns what a folder holds, but for hidden entries and other suffixes, in natural order."""
    try:
        names = os.listdir(folder) if os.path.isdir(folder) else []
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error
    kept = [x for x in names if x.lower().endswith(suffix) and not x.startswith(".")]
    return [folder / name for name in sorted(kept, key=_natural_order)]


def _natural_order(name: str) -> tuple[list[str | int], str]:
    parts: list[str | int] = list(re.split(r"([0-9]+)", name))
    parts[1::2] = [int(digits) for digits in parts[1::2]]
    return parts, name


def _labelled_batches(folder: Path) -> Iterator[tuple[list[Path], list[int]]]:
    """Yields files and labels of each batch of a set."""
    parent = folder.parent if folder.absolute().name == "imgs" else folder
    tables = {table.stem: table for table in _children(parent / "metadata", ".npy")}
    for batch in _batches(folder):
        files = _children(batch, ".png")
        named = LABELS_OF_NAMES.get(batch.name)
        if table := tables.pop(batch.name, None):
            labels = _labels_of_table(table, batch, files)
            for file, label in zip(files, labels, strict=True):
                if named not in (None, label):
                    raise DataError(f"{file}: label is {label} in {table}, {named} by its folder")
            yield files, labels
        elif named is not None:
            yield files, [named] * len(files)
        else:
            raise DataError(
                f"{batch}: images without labels; expected {parent / 'metadata' / batch.name}.npy, "
                "or folders named pos and neg"
            )
    for name, table in tables.items():
        raise DataError(f"{table}: rows for missing files; expected PNG files in {folder / name}")


def _labels_of_table(table: Path, batch: Path, files: list[Path]) -> list[int]:
    """Returns the label of each file by a table that has exactly one row for each of them."""
    labels: dict[str, int] = {}
    names = {file.name for file in files}
    for number, row in enumerate(_load_table(table)):
        where, (folder, name, _, label) = f"{table}: row {number}", row[:4]
        if re.split(r"[/\\]", folder)[-1] != batch.name:
            raise DataError(f"{where}: folder is '{folder}'; expected one named '{batch.name}'")
        if name not in names:
            raise DataError(f"{where}: no file '{name}' in {batch}")
        if name in labels:
            raise DataError(f"{where}: second row for '{name}'; expected one")
        if label not in ("0", "1"):
            raise DataError(f"{where}: label is '{label}'; expected 0 or 1")
        labels[name] = int(label)
    if missing := [file for file in files if file.name not in labels]:
        raise DataError(f"{missing[0]}: no row in {table}; expected one for each file")
    return [labels[file.name] for file in files]


def _load_table(path: Path) -> list[list[str]]:
    expected = "expected rows of strings: folder, file name, number, label and more"
    with open_data_file(path, "an .npy file") as file:
        try:
            table = np.lib.format.read_array(file, allow_pickle=False)
            table = table.astype(str) if table.dtype.kind == "S" else table
        except (ValueError, EOFError, MemoryError, TypeError) as error:
            raise DataError(f"{path}: no readable array; {expected}") from error
    if table.dtype.kind != "U" or table.ndim != 2 or table.shape[1] < 4:
        raise DataError(f"{path}: is {table.dtype} {table.shape}; {expected}")
    return table.tolist()


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays 'neg' and 'pos', checked."""
    with open_data_file(path, "an .npz file") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                missing = [name for name in LABELS_OF_NAMES if name not in archive]
                arrays = {} if missing else {name: archive[name] for name in LABELS_OF_NAMES}
                present = ", ".join(archive) or "none"
        except Exception as error:  # zipfile, zlib and NumPy have a dozen kinds between them
            raise DataError(
                f"{path}: no readable .npz file of numbers; expected the arrays 'pos' and 'neg'"
            ) from error
    if missing:
        raise DataError(
            f"{path}: no array '{missing[0]}'; expected 'pos' and 'neg'; arrays: {present}"
        )
    for name, array in arrays.items():
        if array.ndim == 3 and array.shape[-1] == 3:
            arrays[name] = array[None]
        _check_images(arrays[name], f"{path}: '{name}'")
    return arrays


def _check_images(array: np.ndarray, where: str) -> None:
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(f"{where} is {array.dtype}; expected uint8, or floats from 0 to 1")
    if array.ndim != 3 and (array.ndim != 4 or array.shape[-1] != 3):
        raise DataError(f"{where} has shape {array.shape}; expected (n, h, w) or (n, h, w, 3)")
    _check_square(array.shape[2], array.shape[1], where)
    if array.dtype.kind == "f":
        low, high = NORMALISED_RANGE if array.ndim == 4 else (0, 1)
        for number, image in enumerate(array):
            if not (image.min() >= low and image.max() <= high):  # also where one is NaN
                raise DataError(f"{where}: image {number} has values outside of {low} to {high}")


def _check_square(width: int, height: int, where: str) -> None:
    if width != height:
        raise DataError(f"{where}: image is {width} x {height}; expected a square")
    if not 1 <= width <= MAX_SIDE:
        raise DataError(
            f"{where}: image is {width} x {height}; expected a side of 1 to {MAX_SIDE} pixels"
        )


def read_png(path: Path) -> Image.Image:
    """Returns a square 8-bit image, decoded, after checking its claimed size and its checksums.

    Raises:
        DataError: The file cannot be read, is no whole PNG file or holds another kind of image.
    """
    data = _file_bytes(path)
    if data[:8] != PNG_SIGNATURE or data[12:16] != b"IHDR" or len(data) < 24:
        raise DataError(f"{path}: no PNG file by its first bytes")
    _check_square(*struct.unpack(">II", data[16:24]), str(path))
    try:
        Image.open(io.BytesIO(data), formats=["PNG"]).verify()  # uses the image up
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        image.load()
    except Exception as error:  # Pillow and zlib have a dozen kinds between them
        raise DataError(f"{path}: damaged or cut-off PNG file") from error
    if image.mode not in ("1", "L", "P", "RGB") or "transparency" in image.info:
        raise DataError(f"{path}: image mode is {image.mode}; expected 8-bit grey or RGB, opaque")
    return image


def _file_bytes(path: Path) -> bytes:
    with open_data_file(path, "a PNG file") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"{path}: {size} bytes; expected a PNG of at most {MAX_FILE_BYTES}")
        return file.read()
