"""What a shard of a Pathfinder data set is: its images, and its files in each format."""

import contextlib
import dataclasses
import errno
import json
import os
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from common.data.images import normalise_bytes
from common.data.pathfinder.examples import (
    TFDS_NAME,
    TFDS_VERSION,
    config_name,
    encode_png,
)
from common.data.pathfinder.settings import PathfinderSettings
from common.data.tfrecord import TFRecordWriter, encode_example


@dataclasses.dataclass(frozen=True)
class Shard:
    """Images `start` ... `start + count - 1` of a split; number `number` of `of` shards."""

    split: str
    number: int
    of: int
    start: int
    count: int

    @property
    def name(self) -> str:
        """Name in the record of finished shards."""
        return f"{self.split}-{self.number:05}-of-{self.of:05}"


@dataclasses.dataclass(frozen=True)
class Written:
    """A shard that is whole on disk.

    Attributes:
        shard: which one.
        bytes: size of its files together.
        sha256: digest of its files, one after the other.
    """

    shard: Shard
    bytes: int
    sha256: str


def plan_shards(counts: Mapping[str, int], shard_size: int) -> list[Shard]:
    """Cuts every split into shards of `shard_size` images, the last one smaller."""
    shards = []
    for split, count in counts.items():
        starts = range(0, count, shard_size)
        for number, start in enumerate(starts):
            size = min(shard_size, count - start)
            shards.append(Shard(split, number, len(starts), start, size))
    return shards


@contextlib.contextmanager
def _os_errors() -> Generator[None, None, None]:
    """Turns the RuntimeErrors of the ArrayRecord library into the OSErrors that their text names.

    The text is '<call> failed: <reason>; writing <path>; ...'.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"failed: ([^;]*)", str(error))
        reason = found[1] if found else " ".join(str(error).split())
        numbers = {os.strerror(number): number for number in errno.errorcode}
        raise OSError(numbers.get(reason, errno.EIO), reason) from error


class Format(Protocol):
    """One layout of a data set on disk. All file names are relative to the data set's folder."""

    def folder(self, settings: PathfinderSettings) -> str:
        """Returns the data set's folder below the one that the user names."""
        ...

    def pattern(self, shard: Shard) -> str:
        """Returns the shard's file, or a shell pattern that expands to its files in order."""
        ...

    def files(self, shard: Shard) -> list[str]:
        """Returns the shard's files, in the order in which the digest takes them."""
        ...

    def write(self, shard: Shard, examples: Iterator[dict[str, Any]], scratch: Path) -> None:
        """Writes the shard's files below `scratch`."""
        ...

    def close(
        self, settings: PathfinderSettings, seed: int, shards: Sequence[Written], scratch: Path
    ) -> None:
        """Writes below `scratch` the files that need all shards to be there."""
        ...


class ArrayRecordFormat:
    """A folder of TensorFlow Datasets: PNG images in ArrayRecord files."""

    def folder(self, settings: PathfinderSettings) -> str:
        """See `Format`."""
        return f"{TFDS_NAME}/{config_name(settings)}/{TFDS_VERSION}"

    def pattern(self, shard: Shard) -> str:
        """See `Format`."""
        number = f"{shard.number:05}-of-{shard.of:05}"
        return f"{TFDS_NAME}-{shard.split}.array_record-{number}"

    def files(self, shard: Shard) -> list[str]:
        """See `Format`."""
        return [self.pattern(shard)]

    def write(self, shard: Shard, examples: Iterator[dict[str, Any]], scratch: Path) -> None:
        """See `Format`."""
        from array_record.python.array_record_module import ArrayRecordWriter

        with _os_errors():
            writer = ArrayRecordWriter(str(scratch / self.pattern(shard)), "group_size:1")
            try:
                for example in examples:
                    writer.write(encode_example(example | {"image": encode_png(example["image"])}))
            finally:
                writer.close()

    def close(
        self, settings: PathfinderSettings, seed: int, shards: Sequence[Written], scratch: Path
    ) -> None:
        """Writes dataset_info.json and features.json."""
        from common.data.pathfinder.tfds_builder import write_metadata

        lengths: dict[str, list[int]] = {}
        sizes: dict[str, int] = {}
        for written in shards:
            split = written.shard.split
            lengths.setdefault(split, []).append(written.shard.count)
            sizes[split] = sizes.get(split, 0) + written.bytes
        write_metadata(scratch, settings, lengths, sizes)


class TFRecordFormat:
    """The shards of the public notebooks: float32 images, less ImageNet's mean over deviation."""

    SPLITS = {"train": "train", "validation": "val", "test": "test"}

    def folder(self, settings: PathfinderSettings) -> str:
        """See `Format`."""
        return f"difficulty_{settings.contour_length}"

    def pattern(self, shard: Shard) -> str:
        """See `Format`."""
        return f"{self.SPLITS[shard.split]}/shard_{shard.number:05}.tfrecord"

    def files(self, shard: Shard) -> list[str]:
        """See `Format`."""
        return [self.pattern(shard)]

    def write(self, shard: Shard, examples: Iterator[dict[str, Any]], scratch: Path) -> None:
        """See `Format`."""
        path = scratch / self.pattern(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        with TFRecordWriter(path) as writer:
            for example in examples:
                image = normalise_bytes(example["image"])
                height, width, channels = image.shape
                features = {
                    "image": image.astype("<f4").tobytes(),
                    "label": example["label"],
                    "height": height,
                    "width": width,
                    "channels": channels,
                }
                writer.write(encode_example(features))

    def close(
        self, settings: PathfinderSettings, seed: int, shards: Sequence[Written], scratch: Path
    ) -> None:
        """Writes metadata.json as the public converter does."""
        counts = dict.fromkeys(self.SPLITS, 0)
        for written in shards:
            counts[written.shard.split] += written.shard.count
        total = sum(counts.values())
        metadata = {
            "difficulty": str(settings.contour_length),
            "image_size": settings.image_size,
            "total_samples": total,
            "train_ratio": counts["train"] / total,
            "val_ratio": counts["validation"] / total,
            "seed": seed,
            **{f"{self.SPLITS[split]}_samples": count for split, count in counts.items()},
        }
        (scratch / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


class PngFormat:
    """Folders of PNG files as the public generator writes them; image 2k is pos, 2k + 1 is neg."""

    CLASSES = (("pos", 1), ("neg", 0))

    def folder(self, settings: PathfinderSettings) -> str:
        """See `Format`."""
        return f"curv_contour_length_{settings.contour_length}"

    def pattern(self, shard: Shard) -> str:
        """See `Format`."""
        first, last = shard.start // 2, (shard.start + shard.count) // 2 - 1
        return f"{shard.split}/imgs/{{pos,neg}}/sample_{{{first}..{last}}}.png"

    def files(self, shard: Shard) -> list[str]:
        """See `Format`."""
        numbers = range(shard.start // 2, (shard.start + shard.count) // 2)
        return [
            f"{shard.split}/imgs/{name}/sample_{number}.png"
            for name, _ in self.CLASSES
            for number in numbers
        ]

    def write(self, shard: Shard, examples: Iterator[dict[str, Any]], scratch: Path) -> None:
        """See `Format`."""
        names = {label: name for name, label in self.CLASSES}
        for name in names.values():
            (scratch / shard.split / "imgs" / name).mkdir(parents=True)
        for index, example in enumerate(examples, shard.start):
            folder = scratch / shard.split / "imgs" / names[example["label"]]
            (folder / f"sample_{index // 2}.png").write_bytes(encode_png(example["image"]))

    def close(
        self, settings: PathfinderSettings, seed: int, shards: Sequence[Written], scratch: Path
    ) -> None:
        """Writes metadata/pos.npy and neg.npy of every split: 11 strings for each image."""
        counts: dict[str, int] = {}
        for written in shards:
            counts[written.shard.split] = counts.get(written.shard.split, 0) + written.shard.count
        for split, count in counts.items():
            folder = scratch / split / "metadata"
            folder.mkdir(parents=True)
            for name, label in self.CLASSES:
                np.save(folder / f"{name}.npy", self._rows(settings, name, label, count // 2))

    @staticmethod
    def _rows(settings: PathfinderSettings, name: str, label: int, count: int) -> np.ndarray:
        """Returns the public metadata of a class (count, 11)."""
        lengths = (settings.paddle_length, settings.paddle_thickness, settings.margin)
        constant = [
            f"{settings.continuity:g}",
            str(settings.contour_length),
            str(settings.distractor_length),
            *(f"{length:g}" for length in lengths),
            "1",
        ]
        rows = np.empty((count, 11), "<U32")
        numbers = np.arange(count).astype(str)
        rows[:, 0], rows[:, 2], rows[:, 3] = f"imgs/{name}", numbers, str(label)
        rows[:, 1] = np.char.add(np.char.add("sample_", numbers), ".png")
        rows[:, 4:] = constant
        return rows


FORMATS: Mapping[str, Format] = {
    "array_record": ArrayRecordFormat(),
    "tfrecord": TFRecordFormat(),
    "png": PngFormat(),
}
