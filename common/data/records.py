"""Labelled images from wherever they lie, as the models take them."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.data.folders import LAYOUTS, FolderImages, find_image_sets
from common.data.images import normalise_bytes
from common.data.tfrecord import check_image_size, read_image_example, read_tfrecord
from common.errors import DataError
from common.files import StrPath

KNOWN = f"*.tfrecord, {LAYOUTS}"
TFRECORD_NAME = re.compile(r"[^.].*\.tfrecords?(-\d+-of-\d+)?", re.DOTALL)


def read_records(path: StrPath, image_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields images (image_size, image_size, 3) float32 and labels, 0 or 1, in the order stored.

    The images are less ImageNet's mean over its deviation: TFRecord files hold them so, grey ones
    are brought there as by `normalise_grey`.

    Args:
        path: A TFRecord file, `*.tfrecord` or `*.tfrecords`, also numbered `-00000-of-00010`; a
            folder that holds such files at any depth, taken in the order of their paths; or what
            `FolderImages` takes, a folder of PNG files or an `.npz` file. In a folder with
            TFRecord files nothing else is read.
        image_size: Height and width. PNG files and arrays are resized, TFRecords refused.

    Raises:
        DataError: The path or the size, at once; a file or record, when it is reached.
    """
    size = check_image_size(image_size)
    path = Path(path)
    if files := find_tfrecords(path):
        return _read_tfrecords(files, size)
    if path.suffix.lower() == ".npz" or (os.path.isdir(path) and find_image_sets(path)):
        return _read_grey(FolderImages(path, size))
    what = "a file of another kind" if os.path.exists(path) else "does not exist"
    what = "nothing known in this folder" if os.path.isdir(path) else what
    raise DataError(f"{path}: {what}; expected *.tfrecord, *.npz, or a folder with {KNOWN}")


def find_tfrecords(path: Path) -> list[Path]:
    """Returns the TFRecord files that `path` is or holds, in the order of their paths."""
    if not os.path.isdir(path):
        return [path] if os.path.exists(path) and TFRECORD_NAME.fullmatch(path.name) else []
    found, visited = [], set()
    for folder, children, files in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:  # links may form a circle
            children.clear()
            continue
        visited.add(real)
        children[:] = sorted(child for child in children if not child.startswith("."))
        found += [Path(folder, name) for name in files if TFRECORD_NAME.fullmatch(name)]
    return sorted(found)


def _read_tfrecords(files: list[Path], image_size: int) -> Iterator[tuple[np.ndarray, int]]:
    for file in files:
        for number, record in enumerate(read_tfrecord(file)):
            yield read_image_example(record, image_size, f"{file}: record {number}")


def _read_grey(source: FolderImages) -> Iterator[tuple[np.ndarray, int]]:
    for index in range(len(source)):
        example = source[index]
        yield normalise_bytes(example["image"]), int(example["label"])
