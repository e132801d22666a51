"""What a Pathfinder data set on disk holds: counts, shortcuts, duplicates, damage, a picture."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from common.data.folders import FolderImages, find_image_sets, read_png
from common.data.images import grey_bytes
from common.data.pathfinder import find_markers, shortcut_features
from common.data.pathfinder.manifest import MANIFEST, find_damage, read_manifest, shards_of
from common.data.pipeline import Source
from common.data.records import find_tfrecords
from common.data.tfrecord import TFRecordImages, decode_example, read_tfrecord
from common.errors import DataError, UserError
from experiments.reports.contact_sheet import contact_sheet

SPLIT_FOLDERS = ("train", "val", "validation", "test")
SHORTCUT_IMAGES = 4000
PUBLISHED_RADIUS = 5 / 300
FOLDS = 10
BATCH = 64
SHOWN = 3
DEPTHS = ("*/", "*/*/", "*/*/*/")
SHEET_IMAGES = 64

Report = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set that was found on disk.

    Attributes:
        folder: where it lies.
        kind: what it is, for people.
        splits: its images by split.
        image_size: side of the images, pixels.
        manifest: what the export wrote last; None where there is none.
    """

    folder: Path
    kind: str
    splits: Mapping[str, Source]
    image_size: int
    manifest: dict[str, Any] | None

    @property
    def title(self) -> str:
        """Names the data set above a picture."""
        if self.manifest is None:
            return self.folder.absolute().name
        settings = self.manifest["settings"]
        return f"Pathfinder-{settings['contour_length']} ({settings['layout']})"

    @property
    def radius(self) -> float:
        """Radius of the discs in pixels; that of the published images where nothing tells it."""
        if self.manifest is None:
            return PUBLISHED_RADIUS * self.image_size
        settings = self.manifest["settings"]
        return settings["marker_radius"] * self.image_size / settings["window"]


@dataclasses.dataclass(frozen=True)
class Scan:
    """What one pass over a split has found.

    Attributes:
        labels: (n,) uint8.
        digests: (n,) SHA-256 of the pixels of each image.
    """

    labels: np.ndarray
    digests: list[bytes]


def inspect_dataset(
    path: str | Path,
    sheet: str | Path | None = None,
    progress: Callable[[str], Report] | None = None,
) -> int:
    """Prints what a data set holds and saves a contact sheet.

    Args:
        path: the folder of a data set, or one above it with no other below.
        sheet: where the contact sheet goes; by default into `path`.
        progress: makes a reporter of (images done, images in all) from its label.

    Returns:
        1 where files are not as their manifest says, and then nothing more is looked at; else 0.

    Raises:
        UserError: there is no data set, its images cannot be read or the sheet not be written.
    """
    make_report = progress or (lambda label: lambda done, total: None)
    folder = find_dataset(Path(path))
    if (folder / MANIFEST).exists() and _print_damage(folder, make_report("checking")):
        return 1
    data = open_dataset(folder)
    print(f"{folder}: {data.kind}, {data.image_size} x {data.image_size} pixels")
    scans = _scan_all(data, make_report("reading "))
    for line in (*_count_lines(scans), *_duplicate_lines(scans), *_shortcut_lines(data, scans)):
        print(line)
    print("contact sheet:", _save_sheet(data, scans, Path(sheet or folder / "contact_sheet.png")))
    return 0


def _print_damage(folder: Path, report: Report) -> bool:
    shards = len(shards_of(read_manifest(folder)))
    lines = find_damage(folder, report)
    for line in lines:
        print(f"damaged: {line}")
    if lines:
        print(f"{folder}: export it again with the same arguments to mend it")
    else:
        print(f"manifest: {shards:,} shards, all as they were written")
    return bool(lines)


def find_dataset(path: Path) -> Path:
    """Returns the folder of the only data set at or below `path`.

    Raises:
        DataError: there is none, or there are several.
    """
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise DataError(f"{path}: {what}; expected the folder of a data set")
    files = (MANIFEST, "dataset_info.json")
    if any((path / file).exists() for file in files):
        return path
    below = {p.parent for file in files for depth in DEPTHS for p in path.glob(f"{depth}{file}")}
    if len(below) > 1:
        names = ", ".join(str(folder) for folder in sorted(below)[:SHOWN])
        raise DataError(f"{path}: {len(below)} data sets, choose one: {names}")
    return below.pop() if below else path


def open_dataset(folder: Path) -> Dataset:
    """Opens a data set of any of the known layouts.

    Raises:
        DataError: the layout is unknown or its files cannot be used.
    """
    manifest = read_manifest(folder) if (folder / MANIFEST).exists() else None
    if (folder / "dataset_info.json").exists():
        kind, splits, size = _open_tfds(folder)
    else:
        kind, splits, size = _open_folders(folder)
    return Dataset(folder, kind, splits, size, manifest)


def _open_tfds(folder: Path) -> tuple[str, dict[str, Source], int]:
    import tensorflow_datasets as tfds

    from common.data.pathfinder.tfds_source import TfdsImages

    names = list(tfds.builder_from_directory(folder).info.splits)
    sources = {name: TfdsImages(folder, name) for name in names}
    if not sources:
        raise DataError(f"{folder}: a TFDS data set without splits")
    return "TFDS array_record", dict(sources), next(iter(sources.values())).image_size


def _open_folders(folder: Path) -> tuple[str, dict[str, Source], int]:
    """Opens TFRecords or PNG files, with one folder for each split or all in one."""
    parts = {name: folder / name for name in SPLIT_FOLDERS if (folder / name).is_dir()}
    parts = {
        name: part for name, part in parts.items() if find_tfrecords(part) or _has_images(part)
    }
    parts = parts or {"all": folder}
    first = next(iter(parts.values()))
    if records := find_tfrecords(first):
        size = _record_size(records[0])
        splits = {name: TFRecordImages(find_tfrecords(part), size) for name, part in parts.items()}
        return "TFRecord", dict(splits), size
    if not _has_images(first):
        raise DataError(
            f"{folder}: no data set known here; expected a TFDS folder, TFRecords or PNG"
        )
    size = _png_size(first)
    return "PNG", {name: FolderImages(part, size) for name, part in parts.items()}, size


def _has_images(folder: Path) -> bool:
    return bool(find_image_sets(folder))


def _record_size(path: Path) -> int:
    """Returns the side of the images in a TFRecord file from the first one's number of bytes."""
    features = decode_example(next(read_tfrecord(path)), f"{path}: record 0")
    image = features.get("image", [])
    size = math.isqrt(len(image[0]) // 12) if image and isinstance(image[0], bytes) else 0
    if not size or size * size * 12 != len(image[0]):
        raise DataError(f"{path}: record 0: expected 'image' as float32 of h x h x 3")
    return size


def _png_size(folder: Path) -> int:
    """Returns the side of one of the images; a contact sheet beside them is none."""
    return read_png(next(find_image_sets(folder)[0].glob("*/*.png"))).width


def _scan_all(data: Dataset, report: Report) -> dict[str, Scan]:
    total = sum(map(len, data.splits.values()))
    scans, before = {}, 0
    for name, source in data.splits.items():
        offset = before
        scans[name] = _scan(source, lambda done, o=offset: report(o + done, total))
        before += len(source)
    return scans


def _scan(source: Source, report: Callable[[int], None]) -> Scan:
    """Reads all images of a split once, in threads."""
    count = len(source)

    def read(start: int) -> list[tuple[int, bytes]]:
        examples = [source[i] for i in range(start, min(start + BATCH, count))]
        return [(int(e["label"]), _pixel_digest(e["image"])) for e in examples]

    labels, digests = [], []
    with ThreadPoolExecutor() as pool:
        for found in pool.map(read, range(0, count, BATCH)):
            labels += [label for label, _ in found]
            digests += [digest for _, digest in found]
            report(len(labels))
    return Scan(np.array(labels, np.uint8), digests)


def _pixel_digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(grey_bytes(image).tobytes()).digest()


def _read_images(source: Source, numbers: np.ndarray) -> np.ndarray:
    return np.stack([grey_bytes(source[int(i)]["image"]) for i in numbers])


def choose_pairs(labels: np.ndarray, most: int) -> np.ndarray:
    """Chooses images for cross-validation: pairs of a positive and a negative, one after the other.

    The k-th positive and the k-th negative of a matched set show the same contours. Were one of
    them fitted and the other tested, or the labels unequally many in a fold, a regression on
    features that say nothing would do worse than chance.

    Args:
        labels: (n,) of 0 and 1.
        most: largest number of images to choose.

    Returns:
        Numbers of images, even in number.
    """
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    pairs = min(len(positive), len(negative))
    ranks = np.sort(np.random.default_rng(0).permutation(pairs)[: most // 2])
    return np.stack([positive[ranks], negative[ranks]], -1).ravel()


def _count_lines(scans: Mapping[str, Scan]) -> Iterable[str]:
    yield f"{'split':12} {'images':>9} {'positive':>9} {'negative':>9}"
    for name, scan in scans.items():
        positive = int(scan.labels.sum())
        share = f"{100 * positive / len(scan.labels):.1f} % positive"
        negative = len(scan.labels) - positive
        yield f"{name:12} {len(scan.labels):9,} {positive:9,} {negative:9,}   {share}"


def _duplicate_lines(scans: Mapping[str, Scan]) -> Iterable[str]:
    """Yields how many images there are more than once, and the first few of them."""
    places: dict[bytes, list[tuple[str, int]]] = {}
    for name, scan in scans.items():
        for index, digest in enumerate(scan.digests):
            places.setdefault(digest, []).append((name, index))
    groups = [group for group in places.values() if len(group) > 1]
    if not groups:
        yield f"duplicates: none among {sum(len(s.digests) for s in scans.values()):,} images"
        return
    across = sum(len({name for name, _ in group}) > 1 for group in groups)
    torn = sum(len({scans[n].labels[i] for n, i in group}) > 1 for group in groups)
    yield (
        f"duplicates: {len(groups):,} images are there more than once, {across:,} of them in more "
        f"than one split, {torn:,} under both labels"
    )
    for group in groups[:SHOWN]:
        yield "  " + " = ".join(f"{name} {index}" for name, index in group[: SHOWN + 1])


def _shortcut_lines(data: Dataset, scans: Mapping[str, Scan]) -> Iterable[str]:
    """Yields how well each feature alone tells the label on a sample of the largest split."""
    from common.analysis import linear_probe

    name = _largest(scans)
    chosen = choose_pairs(scans[name].labels, SHORTCUT_IMAGES)
    labels = scans[name].labels[chosen]
    if len(chosen) < 2 * FOLDS:
        yield f"shortcuts: not measured, fewer than {FOLDS} images of one label in {name}"
        return
    images = _read_images(data.splits[name], chosen)
    markers = find_markers(images, data.radius)
    yield (
        f"shortcuts: accuracy of logistic regressions, {FOLDS}-fold cross-validated on "
        f"{len(labels):,} images of {name}, pairs kept together; 95 % Wilson intervals"
    )
    for feature, values in shortcut_features(images, markers, data.radius).items():
        share, low, high = (100 * x for x in linear_probe(values, labels, FOLDS, group=2)[:3])
        yield f"  {feature:24} {share:5.1f} % [{low:.1f}, {high:.1f}]"


def _save_sheet(data: Dataset, scans: Mapping[str, Scan], path: Path) -> Path:
    name = _largest(scans)
    labels = scans[name].labels
    first = np.concatenate([np.flatnonzero(labels == label)[:SHEET_IMAGES] for label in (0, 1)])
    images = _read_images(data.splits[name], first)
    title = f"{data.title}, {name}: {len(labels):,} images"
    try:
        contact_sheet(images, labels[first], title).save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--sheet: cannot write {str(path)!r}: {error}") from error
    return path


def _largest(scans: Mapping[str, Scan]) -> str:
    return max(scans, key=lambda name: len(scans[name].labels))
