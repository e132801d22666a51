"""Pathfinder as a TensorFlow Datasets builder, prepared and read without TensorFlow.

    import tensorflow_datasets as tfds
    from common.data.pathfinder import tfds_builder  # makes the name 'pathfinder' known

    tfds.builder("pathfinder/14_matched_128").download_and_prepare(file_format="array_record")
    source = tfds.data_source("pathfinder/14_matched_128", split="train")

Only the file format array_record is for use: TFRecord needs TensorFlow, and TFDS's Parquet writer
drops records without a word.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_info import DatasetIdentity

from common.data.pathfinder.dataset import split_seed
from common.data.pathfinder.examples import (
    TFDS_NAME,
    TFDS_VERSION,
    config_name,
    draw_examples,
    encode_png,
)
from common.data.pathfinder.settings import PathfinderSettings

LENGTHS = (6, 9, 14, 20, 25)
LAYOUTS = ("matched", "reference")
SIZES = (64, 128, 224, 256, 300)
COUNTS = MappingProxyType({"train": 160_000, "validation": 20_000, "test": 20_000})
LABELS = ("two_contours", "one_contour")

CITATION = """@inproceedings{linsley2018learning,
  title = {Learning long-range spatial dependencies with horizontal gated recurrent units},
  author = {Linsley, Drew and Kim, Junkyung and Veerabadran, Vijay and Windolf, Charles and
            Serre, Thomas},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2018}
}"""


def make_features(image_size: int) -> tfds.features.FeaturesDict:
    """Returns the features of an example, the same for the builder and for exported folders."""
    shape = (image_size, image_size, 1)
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, dtype=np.uint8, encoding_format="png"),
            "label": tfds.features.ClassLabel(names=LABELS),
            "markers": tfds.features.Tensor(shape=(2, 2), dtype=np.float32),
        }
    )


def describe(settings: PathfinderSettings) -> str:
    """Says in a paragraph what the images show and in which units the features are."""
    fields = ", ".join(f"{key}={value}" for key, value in dataclasses.asdict(settings).items())
    return (
        "Pathfinder: do the two discs end one contour (label 1) or two (label 0)? Even records "
        "are positive, odd ones negative. 'image' is grey on black; 'markers' holds the centres "
        f"of the discs as (y, x) in pixels of the image. Settings: {fields}."
    )


@dataclasses.dataclass(eq=False)
class PathfinderConfig(tfds.core.BuilderConfig):
    """One family of images and how many of them there are.

    Attributes:
        settings: the family.
        counts: number of images by split, each even.
        seed: seed of the whole data set.
    """

    settings: PathfinderSettings = PathfinderSettings()
    counts: Mapping[str, int] = dataclasses.field(default_factory=lambda: COUNTS)
    seed: int = 0


def _config(length: int, layout: str, size: int) -> PathfinderConfig:
    settings = PathfinderSettings(image_size=size, contour_length=length, layout=layout)
    return PathfinderConfig(
        name=config_name(settings), description=describe(settings), settings=settings
    )


class Pathfinder(tfds.core.GeneratorBasedBuilder):
    """Generates the images of one config; there is nothing to download.

    It works in one process. `python -m experiments.pathfinder_data` writes the same folder with
    many, and can be stopped and resumed.
    """

    VERSION = tfds.core.Version(TFDS_VERSION)
    code_path = Path(__file__)  # to infer it, TFDS wants a package that it does not require
    BUILDER_CONFIGS = [
        _config(length, layout, size) for length in LENGTHS for layout in LAYOUTS for size in SIZES
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return _make_info(self, self.builder_config.settings)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in self.builder_config.counts}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        seed = split_seed(config.seed, split)
        for i, example in enumerate(draw_examples(config.settings, seed, 0, config.counts[split])):
            yield i, {**example, "image": encode_png(example["image"])}


def _make_info(builder: Any, settings: PathfinderSettings) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=builder,
        description=describe(settings),
        features=make_features(settings.image_size),
        supervised_keys=("image", "label"),
        disable_shuffling=True,
        citation=CITATION,
    )


def write_metadata(
    folder: str | os.PathLike,
    settings: PathfinderSettings,
    shard_lengths: Mapping[str, list[int]],
    bytes_by_split: Mapping[str, int],
) -> None:
    """Writes the dataset_info.json and features.json that make a folder of shards readable.

    Args:
        folder: where to write them.
        settings: the family of images.
        shard_lengths: number of records in each shard, by split.
        bytes_by_split: size of a split's shards.
    """
    identity = DatasetIdentity(
        name=TFDS_NAME,
        version=tfds.core.Version(TFDS_VERSION),
        data_dir=os.fspath(folder),
        module_name=__name__,
        config_name=config_name(settings),
        config_description=describe(settings),
    )
    info = _make_info(identity, settings)
    info.set_file_format("array_record")
    template = tfds.core.ShardedFileTemplate(
        data_dir=Path(folder), dataset_name=TFDS_NAME, filetype_suffix="array_record"
    )
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=lengths,
            num_bytes=bytes_by_split[split],
            filename_template=template,
        )
        for split, lengths in shard_lengths.items()
    ]
    info.set_splits(tfds.core.splits.SplitDict(splits))
    info.write_to_directory(folder)
