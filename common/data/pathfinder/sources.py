"""Pathfinder images from wherever they are: generated here, or in files that somebody has."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.data.folders import FolderImages
from common.data.images import grey_bytes
from common.data.pathfinder.dataset import SPLITS, PathfinderImages
from common.data.pathfinder.features import find_markers
from common.data.pathfinder.settings import PathfinderSettings
from common.data.pipeline import Source, Subset, gather
from common.data.records import find_tfrecords
from common.data.tfrecord import TFRecordImages
from common.errors import DataError, UserError

SOURCES = ("generate", "tfds", "tfrecord", "folder")
FOLDERS_OF_SPLITS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
ALL = -1


def open_sources(
    source: str, path: str | os.PathLike, counts: Mapping[str, int], image_size: int, seed: int
) -> dict[str, Source]:
    """Opens the train, validation and test images of a data set on disk.

    Args:
        source: 'tfds', a folder `<name>/<config>/<version>` with array_record files; 'tfrecord', a
            folder with the folders train, val (or validation) and test of TFRecord files; or
            'folder', a folder with such folders of PNG images (see `common.data.folders`), or one
            set of images that is dealt out to the splits here.
        path: the folder.
        counts: how many images to use of each split, the first ones; -1 is all there are.
        image_size: side of the images, pixels. Images in folders are resized to it.
        seed: deals one set of images out to the splits.

    Raises:
        DataError: the data cannot be used, or a split has fewer images than asked for.
        UserError: an unknown source.
    """
    if source not in SOURCES[1:]:
        raise UserError(f"data.source is {source!r}; choose one of {SOURCES}")
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"data.path: {root} is no folder; expected the data of source {source!r}")
    if source == "tfds":
        from common.data.pathfinder.tfds_source import TfdsImages  # TFDS takes seconds to import

        opened = {split: TfdsImages(root, split, image_size) for split in SPLITS}
    elif source == "tfrecord":
        opened = {split: _tfrecords(root, split, image_size) for split in SPLITS}
    elif _split_folder(root, "train") is not None:
        opened = {split: FolderImages(_require_folder(root, split), image_size) for split in SPLITS}
    else:
        return _deal_out(FolderImages(root, image_size), root, counts, seed)
    return {split: _first(opened[split], counts[split], split, root) for split in SPLITS}


def hold_in_memory(source: Source, settings: PathfinderSettings) -> PathfinderImages:
    """Reads all images of a source and looks their markers up, for scoring and reports.

    Args:
        source: images (s, s) or (s, s, 3) with labels.
        settings: of the images; its `window` and `marker_radius` tell how large the discs are.
    """
    everything = gather(source, np.arange(len(source)))
    images = grey_bytes(everything["image"])
    scale = settings.image_size / settings.window
    return PathfinderImages(
        images,
        everything["label"].astype(np.uint8),
        find_markers(images, settings.marker_radius * scale) / scale,
        None,
        settings,
        source.fingerprint,
    )


def _tfrecords(root: Path, split: str, image_size: int) -> TFRecordImages:
    for name in FOLDERS_OF_SPLITS[split]:
        if files := find_tfrecords(root / name):
            return TFRecordImages(files, image_size)
    names = " or ".join(f"{name}/*.tfrecord" for name in FOLDERS_OF_SPLITS[split])
    raise DataError(f"{root}: no {names}; expected the {split} images there")


def _split_folder(root: Path, split: str) -> Path | None:
    found = (root / name for name in FOLDERS_OF_SPLITS[split])
    return next((folder for folder in found if folder.is_dir()), None)


def _require_folder(root: Path, split: str) -> Path:
    folder = _split_folder(root, split)
    if folder is None:
        names = " or ".join(FOLDERS_OF_SPLITS[split])
        raise DataError(f"{root}: no folder {names}; expected the {split} images there")
    return folder


def _deal_out(
    images: FolderImages, root: Path, counts: Mapping[str, int], seed: int
) -> dict[str, Source]:
    """Deals one set of images out: test and validation images first, then training images."""
    key = np.array([seed % 2**64, 0], np.uint64)
    order = np.argsort(np.random.Philox(key=key).random_raw(len(images)), kind="stable")
    dealt, start = {}, 0
    for split in ("test", "validation", "train"):
        count = counts[split] if counts[split] != ALL else len(images) - start
        if count > len(images) - start:
            raise DataError(
                f"{root}: {len(images)} images; data.{split}_count asks for {count} of the "
                f"{len(images) - start} left"
            )
        dealt[split] = Subset(images, order[start : start + count])
        start += count
    return dealt


def _first(images: Source, count: int, split: str, root: Path) -> Source:
    if count == ALL or count == len(images):
        return images
    if count > len(images):
        raise DataError(
            f"{root}: {len(images)} {split} images; data.{split}_count asks for {count}"
        )
    return Subset(images, np.arange(count))
