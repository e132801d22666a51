"""Pathfinder images in a folder of TensorFlow Datasets, read without TensorFlow."""

import functools
import hashlib
import io
import json
import operator
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from common.data.pathfinder import tfds_builder  # noqa: F401  # makes 'pathfinder' known by name
from common.data.pathfinder.manifest import MANIFEST, read_manifest, shards_of
from common.errors import DataError

INFO = "dataset_info.json"
NAME = re.compile(r"[a-z]\w*(/[\w.-]+)?(:[\w.]+)?", re.ASCII)


class TfdsImages:
    """The images and labels of one split, as a random-access source of examples.

    Args:
        path_or_name: the folder that holds dataset_info.json, one above it with no other data set
            below, or the name of a prepared data set, e.g. 'pathfinder/14_matched_128'.
        split: name of the split; also a part of it, e.g. 'train[:10%]'.
        image_size: height and width that the images must have; by default any, all alike.

    Raises:
        DataError: the data cannot be used, on construction or, where it lies in a record, when
            that is read.
    """

    def __init__(
        self, path_or_name: str | os.PathLike, split: str = "train", image_size: int | None = None
    ):
        self._where = f"{path_or_name}: {split}"
        self._builder = _find_builder(path_or_name)
        self.split = split
        self.image_size = self._check_features(image_size)
        self._source = self._open(split)

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns one example: 'image' (s, s) uint8 and 'label' int32."""
        position = range(len(self))[operator.index(index)]
        record = self._read(position)
        image = self._decode(record["image"], position)
        return {"image": image, "label": np.asarray(record["label"], np.int32)}

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Returns the examples at `indices` (b,) as one batch."""
        examples = [self[index] for index in indices]
        return {name: np.stack([e[name] for e in examples]) for name in ("image", "label")}

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Labels (n,) uint8. The first use reads every record."""
        return np.array([self._read(i)["label"] for i in range(len(self))], np.uint8)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the split and with its data.

        They are taken from the digests in the manifest of an export, and otherwise from the
        contents of the split's files; then the first use reads all of them.
        """
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        folder, split = self._builder.data_path, self.split.partition("[")[0]
        digest = hashlib.sha256(self.split.encode())
        if (Path(folder) / MANIFEST).exists():
            for written in shards_of(read_manifest(folder)):
                if written.shard.split == split:
                    digest.update(written.sha256.encode())
        else:
            for path in sorted(map(Path, self._builder.info.splits[split].filepaths)):
                digest.update(path.name.encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:16]

    def _check_features(self, image_size: int | None) -> int:
        """Returns the side of the images."""
        features = self._builder.info.features or {}
        for name in ("image", "label"):
            if name not in features:
                raise DataError(
                    f"{self._where}: no feature {name!r}; there are {', '.join(features) or 'none'}"
                )
        if not isinstance(features["image"], tfds.features.Image):
            kind = type(features["image"]).__name__
            raise DataError(f"{self._where}: feature 'image' is a {kind}; expected an Image")
        height, width, _ = features["image"].shape
        if height is None or height != width:
            raise DataError(
                f"{self._where}: images are {height} x {width}; expected one square size"
            )
        if image_size is not None and image_size != height:
            raise DataError(
                f"{self._where}: images are {height} x {width}; expected "
                f"{image_size} x {image_size}"
            )
        return height

    def _open(self, split: str) -> Any:
        splits = list(self._builder.info.splits)
        if split.partition("[")[0] not in splits:
            raise DataError(
                f"{self._where}: no such split; there are {', '.join(splits) or 'none'}"
            )
        try:
            return self._builder.as_data_source(
                split, decoders={"image": tfds.decode.SkipDecoding()}
            )
        except Exception as error:  # TFDS and ArrayRecord have a dozen kinds between them
            raise DataError(f"{self._where}: cannot be opened: {_line(error)}") from error

    def _read(self, position: int) -> dict[str, Any]:
        try:
            return self._source[position]
        except Exception as error:
            raise DataError(f"{self._where}: record {position}: {_line(error)}") from error

    def _decode(self, data: bytes, position: int) -> np.ndarray:
        where = f"{self._where}: record {position}"
        try:
            with Image.open(io.BytesIO(data)) as image:
                grey = np.array(image.convert("L"))
        except Exception as error:  # Pillow and zlib have a dozen kinds between them
            raise DataError(f"{where}: the image cannot be decoded: {_line(error)}") from error
        if grey.shape != (self.image_size, self.image_size):
            height, width = grey.shape
            raise DataError(
                f"{where}: image is {height} x {width}; expected {self.image_size} squared"
            )
        return grey


def find_tfds_folders(path: Path) -> list[Path]:
    """Returns the highest folders at or below `path` that hold a dataset_info.json."""
    for level in ("", "*/", "*/*/", "*/*/*/"):
        if found := sorted(info.parent for info in path.glob(f"{level}{INFO}")):
            return found
    return []


def _find_builder(path_or_name: str | os.PathLike) -> Any:
    path = Path(path_or_name)
    if path.is_dir():
        folders = find_tfds_folders(path)
        if not folders:
            raise DataError(f"{path}: no {INFO} there; the data set is unfinished, or it is none")
        if len(folders) > 1:
            names = ", ".join(str(folder) for folder in folders[:4])
            raise DataError(f"{path}: {len(folders)} data sets below it, choose one: {names}")
        return _load_builder(folders[0])
    name = str(path_or_name)
    if path.exists() or not NAME.fullmatch(name):
        what = "is a file" if path.exists() else "does not exist"
        raise DataError(f"{path}: {what}; expected a folder with {INFO}")
    try:
        builder = tfds.builder(name)
    except Exception as error:
        raise DataError(
            f"{name}: neither a folder nor a data set that TFDS knows: {_line(error)}"
        ) from error
    if not (Path(builder.data_path) / INFO).exists():
        raise DataError(f"{name}: is not prepared; expected it in {builder.data_path}")
    return builder


def _load_builder(folder: Path) -> Any:
    try:
        json.loads((folder / INFO).read_text(encoding="utf-8"))
        return tfds.builder_from_directory(folder)
    except Exception as error:
        raise DataError(f"{folder}: its {INFO} cannot be used: {_line(error)}") from error


def _line(error: Exception) -> str:
    """Returns the first line of an error's text that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
