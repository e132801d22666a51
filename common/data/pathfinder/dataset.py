"""Pathfinder images on disk: generated once, memory-mapped ever after."""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from common.data.pathfinder.features import shortcut_features
from common.data.pathfinder.scene import draw_images
from common.data.pathfinder.settings import PathfinderSettings
from common.errors import UserError

SPLITS = ("train", "validation", "test")
GENERATOR_VERSION = 4
CHUNK = 512

Report = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class PathfinderImages:
    """Images with their labels, as a random-access source of examples.

    Attributes:
        images: (n, s, s) uint8, black background.
        labels: (n,) uint8, 1 where the two discs end one contour.
        markers: (n, 2, 2) float32, centres (y, x) of the discs in reference pixels.
        headings: (n, 2) float32, cosines between the direction from a marker to the other one and
            the contour that sets out from it; None where it is not known.
        settings: what the images are made of.
        fingerprint: changes with the images.
    """

    images: np.ndarray
    labels: np.ndarray
    markers: np.ndarray
    headings: np.ndarray | None
    settings: PathfinderSettings = PathfinderSettings()
    fingerprint: str = ""

    @property
    def marker_distances(self) -> np.ndarray:
        """Distances (n,) between the discs, reference pixels."""
        return np.hypot(*(self.markers[:, 0] - self.markers[:, 1]).T)

    def shortcut_features(self) -> dict[str, np.ndarray]:
        """Returns what might tell the label without following a contour; (n, d) by name."""
        scale = self.settings.image_size / self.settings.window
        radius = self.settings.marker_radius * scale
        features = shortcut_features(np.asarray(self.images), self.markers * scale, radius)
        if self.headings is not None:
            powers = [np.asarray(self.headings, np.float64) ** power for power in (1, 2, 3)]
            features["headings at the markers"] = np.concatenate(powers, -1)
        return features

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns one example: 'image' (s, s) uint8 and 'label' int32."""
        return {"image": self.images[index], "label": np.asarray(self.labels[index], np.int32)}

    def __getitems__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the examples at `indices` (b,) as one batch."""
        return {"image": self.images[indices], "label": self.labels[indices].astype(np.int32)}


def split_seed(seed: int, split: str) -> int:
    """Returns the generator's seed of a split; no two splits of any seeds share one."""
    return len(SPLITS) * seed + SPLITS.index(split)


def load_or_generate(
    settings: PathfinderSettings,
    split: str,
    count: int,
    seed: int = 0,
    cache: str | os.PathLike = "data",
    report: Report | None = None,
) -> PathfinderImages:
    """Returns `count` images of a split, generated on the first call and read from disk later.

    Args:
        settings: the family of images.
        split: 'train', 'validation' or 'test'; their images come from disjoint seeds.
        count: number of images, even, half of them positive.
        seed: seed of the whole data set.
        cache: folder under which `pathfinder/<fingerprint>` is kept.
        report: called with (images done, images in all) while generating.

    Raises:
        UserError: odd count, or a cache that cannot be written.
    """
    if count <= 0 or count % 2:
        raise UserError(f"data.{split}_count is {count}; it must be even and positive")
    identity = _identity(settings, split, count, seed)
    folder = Path(cache) / "pathfinder" / _fingerprint(identity)
    if not (folder / "manifest.json").exists():
        try:
            _generate_into(folder, settings, split_seed(seed, split), identity, count, report)
        except OSError as error:
            raise UserError(
                f"data.cache: cannot write {folder}: {error.strerror or error}"
            ) from error
    return _open(folder, settings)


def _identity(settings: PathfinderSettings, split: str, count: int, seed: int) -> dict:
    return {
        "generator_version": GENERATOR_VERSION,
        "settings": dataclasses.asdict(settings),
        "split": split,
        "count": count,
        "seed": seed,
    }


def _fingerprint(identity: dict) -> str:
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _generate_into(
    folder: Path,
    settings: PathfinderSettings,
    seed: int,
    identity: dict,
    count: int,
    report: Report | None,
) -> None:
    """Writes the arrays beside `folder` and renames them into place when they are whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        size = settings.image_size
        images = np.lib.format.open_memmap(
            scratch / "images.npy", "w+", np.uint8, (count, size, size)
        )
        labels, markers = np.empty(count, np.uint8), np.empty((count, 2, 2), np.float32)
        headings = np.empty((count, 2), np.float32)

        def fill(start: int) -> int:
            stop = min(start + CHUNK, count)
            part = draw_images(settings, seed, start, stop - start)
            images[start:stop], labels[start:stop] = part.images, part.labels
            markers[start:stop], headings[start:stop] = part.markers, part.headings
            return stop - start

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = 0
            for finished in pool.map(fill, range(0, count, CHUNK)):
                done += finished
                if report is not None:
                    report(done, count)
        images.flush()
        np.save(scratch / "labels.npy", labels)
        np.save(scratch / "markers.npy", markers)
        np.save(scratch / "headings.npy", headings)
        (scratch / "manifest.json").write_text(json.dumps(identity, indent=2) + "\n")
        _publish(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _publish(scratch: Path, folder: Path) -> None:
    try:
        scratch.rename(folder)
    except OSError:
        if not (folder / "manifest.json").exists():  # else another process was first
            raise


def _open(folder: Path, settings: PathfinderSettings) -> PathfinderImages:
    arrays = {}
    for name in ("images", "labels", "markers", "headings"):
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path} is damaged ({error}); delete {folder} to make it again") from (
                error
            )
    return PathfinderImages(**arrays, settings=settings, fingerprint=folder.name)


def print_progress(label: str) -> Report:
    """Returns a reporter that prints '<label>: done/total images' to standard error."""

    def report(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        if sys.stderr.isatty() or done == total:
            print(f"\r{label}: {done}/{total} images", end=end, file=sys.stderr, flush=True)

    return report
