"""TFRecord files of `tf.train.Example`, written and read without TensorFlow.

A record is its length (uint64), the masked CRC-32C of that length (uint32), the data, and the
masked CRC-32C of the data (uint32), all little-endian; a file is records one after the other. The
mask of a checksum c is `rotate_right(c, 15) + 0xa282ead8` modulo 2^32. An Example is one
protocol buffer that maps names to lists of bytes, of float32 or of int64.
"""

import contextlib
import functools
import hashlib
import operator
import os
import secrets
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError

from common.errors import DataError, UserError, shown
from common.files import StrPath, open_data_file

Values = bytes | int | float | Sequence[bytes] | Sequence[int] | Sequence[float] | np.ndarray

HEADER = struct.Struct("<QI")
CHECKSUM = struct.Struct("<I")
MAX_SIDE = 4096

PYTHON_TYPES = {"bytes": bytes, "int64": int, "float": float}
KIND_NAMES = {kind: name for name, kind in PYTHON_TYPES.items()}
SCHEMA = """
name: "example.proto" syntax: "proto3"
message_type {
  name: "BytesList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
}
message_type {
  name: "FloatList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT }
}
message_type {
  name: "Int64List"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 }
}
message_type {
  name: "Feature" oneof_decl { name: "kind" }
  field { name: "bytes_list" number: 1 oneof_index: 0 type: TYPE_MESSAGE type_name: ".BytesList" }
  field { name: "float_list" number: 2 oneof_index: 0 type: TYPE_MESSAGE type_name: ".FloatList" }
  field { name: "int64_list" number: 3 oneof_index: 0 type: TYPE_MESSAGE type_name: ".Int64List" }
}
message_type {
  name: "Features"
  field {
    name: "feature" number: 1 label: LABEL_REPEATED
    type: TYPE_MESSAGE type_name: ".Features.FeatureEntry"
  }
  nested_type {
    name: "FeatureEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING }
    field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".Feature" }
  }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 type: TYPE_MESSAGE type_name: ".Features" }
}
"""


def _example_class() -> Any:
    """Returns the message class, in a pool of its own that cannot clash with TensorFlow's."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(SCHEMA, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Example"))


Example = _example_class()


def masked_crc32c(data: bytes | memoryview) -> int:
    """Returns the CRC-32C of `data`, masked as TFRecord files store it."""
    crc = google_crc32c.value(bytes(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def encode_example(features: Mapping[str, Values]) -> bytes:
    """Returns a serialised `tf.train.Example`; equal features give equal bytes.

    Args:
        features: One value or a sequence of values of one kind per name: bytes, whole numbers
            (stored as int64) or floats (stored in single precision).

    Raises:
        TypeError: A value is of another type, or a sequence mixes kinds.
        ValueError: A whole number does not fit into int64.
    """
    example = Example()
    for name, given in features.items():
        values = _as_list(given)
        kinds = {_kind(name, value) for value in values}
        if len(kinds) > 1:
            raise TypeError(f"feature {name!r} mixes {' and '.join(sorted(kinds))}")
        feature = example.features.feature[name]
        for kind in kinds:
            getattr(feature, f"{kind}_list").value.extend(map(PYTHON_TYPES[kind], values))
    return example.SerializeToString(deterministic=True)


def _as_list(values: Values) -> list:
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return values.ravel().tolist()
    if isinstance(values, Sequence) and not isinstance(values, bytes | str):
        return list(values)
    return [values]


def _kind(name: str, value: object) -> str:
    if isinstance(value, bytes):
        return "bytes"
    if isinstance(value, int | np.integer):
        return "int64"
    if isinstance(value, float | np.floating):
        return "float"
    raise TypeError(
        f"feature {name!r} holds a {type(value).__name__}; expected bytes, int or float"
    )


def decode_example(data: bytes, where: str = "record") -> dict[str, list]:
    """Returns the features of a serialised `tf.train.Example`, each as a list of values.

    Raises:
        DataError: The bytes are no such message; the text begins with `where`.
    """
    try:
        features = Example.FromString(data).features.feature
    except DecodeError as error:
        raise DataError(
            f"{where}: {len(data)} bytes that are no tf.train.Example protocol buffer"
        ) from error
    kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
    return {
        name: list(getattr(features[name], kind).value) if kind else []
        for name, kind in kinds.items()
    }


class TFRecordWriter:
    """Writes a TFRecord file that appears under its name only when it is whole.

    Use it as a context manager. The records go to a hidden file in the same folder, which is
    synced and renamed on a clean exit and removed when the block raises.
    """

    def __init__(self, path: StrPath):
        self._path = Path(path)
        self._scratch = self._path.with_name(f".{self._path.name}.tmp-{secrets.token_hex(4)}")
        self._file: BinaryIO | None = None
        self._count = 0

    def __enter__(self) -> "TFRecordWriter":
        with self._reported():
            self._file = open(self._scratch, "xb")
        return self

    def write(self, record: bytes) -> None:
        """Appends one record.

        Raises:
            ValueError: The record is empty, or the writer is not open.
            UserError: The file cannot be written.
        """
        if self._file is None:
            raise ValueError("a TFRecordWriter writes only inside its with block")
        if not record:
            raise ValueError(f"record {self._count} is empty")
        length = len(record).to_bytes(8, "little")
        with self._reported():
            self._file.write(length + CHECKSUM.pack(masked_crc32c(length)))
            self._file.write(record)
            self._file.write(CHECKSUM.pack(masked_crc32c(record)))
        self._count += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._file is not None
        file, self._file = self._file, None
        try:
            if kind is None:
                self._publish(file)
        finally:
            with contextlib.suppress(OSError):
                file.close()
            self._scratch.unlink(missing_ok=True)

    def _publish(self, file: BinaryIO) -> None:
        if self._count == 0:
            raise ValueError(f"no record was written to {self._path}")
        with self._reported():
            file.flush()
            os.fsync(file.fileno())
            file.close()
            os.replace(self._scratch, self._path)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror or error}") from error


def read_tfrecord(path: StrPath) -> Iterator[bytes]:
    """Yields the records of a file in order, each checked against both of its checksums.

    Raises:
        DataError: The file is missing, empty, cut off or damaged; see the message.
    """
    with open_data_file(path, "a TFRecord file") as file:
        for number, (offset, length) in enumerate(_headers(file, path)):
            yield _read_data(file, offset, length, f"{path}: record {number}")


def build_index(path: StrPath) -> np.ndarray:
    """Returns where the data of each record lies: (n, 2) int64 of byte offset and length.

    It reads the headers alone and checks their checksums; the data is checked when it is read.

    Raises:
        DataError: As for `read_tfrecord`, but for damaged data.
    """
    with open_data_file(path, "a TFRecord file") as file:
        return np.array(list(_headers(file, path)), np.int64)


def _headers(file: BinaryIO, path: StrPath) -> Iterator[tuple[int, int]]:
    """Yields offset and length of the data of each record, all within the file."""
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise DataError(f"{path}: empty file; expected TFRecords")
    position = number = 0
    while position < size:
        where = f"{path}: record {number}"
        file.seek(position)
        length = _parse_header(file.read(HEADER.size), where)
        position += HEADER.size
        if length > size - position:
            raise DataError(
                f"{where}: cut off: {length} bytes of data expected, {size - position} left"
            )
        if (left := size - position - length) < CHECKSUM.size:
            raise DataError(f"{where}: cut off: checksum of the data expected, {left} bytes left")
        yield position, length
        position += length + CHECKSUM.size
        number += 1


def _parse_header(header: bytes, where: str) -> int:
    if len(header) < HEADER.size:
        raise DataError(f"{where}: cut off: header of {len(header)} bytes, expected {HEADER.size}")
    length, checksum = HEADER.unpack(header)
    if masked_crc32c(header[:8]) != checksum:
        what = "gzip-compressed" if header[:2] == b"\x1f\x8b" else "damaged, or no TFRecord file"
        raise DataError(f"{where}: wrong checksum of the length: {what}")
    if length == 0:
        raise DataError(f"{where}: length 0; expected at least one byte of data")
    return length


def _read_data(file: BinaryIO, offset: int, length: int, where: str) -> bytes:
    """Returns the data of a record that lay within the file when its header was read."""
    file.seek(offset)
    data, footer = file.read(length), file.read(CHECKSUM.size)
    if len(footer) < CHECKSUM.size:
        raise DataError(f"{where}: the file was cut off since it was opened")
    if masked_crc32c(data) != CHECKSUM.unpack(footer)[0]:
        raise DataError(f"{where}: wrong checksum of the data; damaged")
    return data


def read_image_example(record: bytes, image_size: int, where: str) -> tuple[np.ndarray, int]:
    """Returns image and label of a record as the public Pathfinder shards hold them.

    Feature 'image' is one byte string, the little-endian float32 numbers (h, w, 3) of an image
    that is already less ImageNet's mean over its deviation; 'label' is one int64, 0 or 1. The
    int64 features 'height', 'width' and 'channels' may be left out but may not disagree.

    Args:
        record: A serialised `tf.train.Example`.
        image_size: Height and width that the image must have.
        where: File and record, the beginning of any message.

    Raises:
        DataError: The record breaks the format.
    """
    features = decode_example(record, where)
    for name, wanted in (("height", image_size), ("width", image_size), ("channels", 3)):
        if name in features and (found := _single(features, name, int, where)) != wanted:
            raise DataError(f"{where}: {name} is {found}; expected {wanted}")
    label = _single(features, "label", int, where)
    if label not in (0, 1):
        raise DataError(f"{where}: label is {label}; expected 0 or 1")
    raw = _single(features, "image", bytes, where)
    expected = image_size * image_size * 3 * 4
    if len(raw) != expected:
        raise DataError(
            f"{where}: image has {len(raw)} bytes; expected {expected}, "
            f"float32 of {image_size} x {image_size} x 3"
        )
    image = np.frombuffer(raw, "<f4").astype(np.float32).reshape(image_size, image_size, 3)
    if not np.isfinite(image).all():
        raise DataError(f"{where}: image has values that are not finite")
    return image, label


def _single(features: dict[str, list], name: str, kind: type, where: str) -> Any:
    """Returns the only value of a feature, which must be of the given kind."""
    expected = f"expected one {KIND_NAMES[kind]}"
    if name not in features:
        present = ", ".join(map(shown, sorted(features)[:8])) or "none"
        raise DataError(f"{where}: no feature '{name}'; {expected}; features: {present}")
    values = features[name]
    if len(values) != 1:
        raise DataError(f"{where}: feature '{name}' has {len(values)} values; {expected}")
    if not isinstance(values[0], kind):
        raise DataError(f"{where}: feature '{name}' is {KIND_NAMES[type(values[0])]}; {expected}")
    return values[0]


def check_image_size(image_size: object) -> int:
    """Returns `image_size` as an int from 1 to 4096.

    Raises:
        DataError: It is anything else; bools are not taken for numbers.
    """
    if isinstance(image_size, int | np.integer) and not isinstance(image_size, bool):
        if 1 <= image_size <= MAX_SIDE:
            return int(image_size)
    raise DataError(f"image_size is {image_size!r}; expected a whole number from 1 to {MAX_SIDE}")


class TFRecordImages:
    """Labelled images in TFRecord files, as a random-access source of examples.

    The constructor reads the headers of all records and nothing else. Every access opens its file
    anew, so threads and processes may share a source.

    Args:
        paths: The files, one or several, in order.
        image_size: Height and width of the images.

    Raises:
        DataError: A file or a record cannot be used, on construction or when it is read.
    """

    def __init__(self, paths: StrPath | Sequence[StrPath], image_size: int):
        self.image_size = check_image_size(image_size)
        self._paths = [
            Path(p) for p in ([paths] if isinstance(paths, str | os.PathLike) else paths)
        ]
        if not self._paths:
            raise DataError("no TFRecord file given; expected at least one")
        indices = [build_index(path) for path in self._paths]
        self._starts = np.cumsum([0] + [len(index) for index in indices])
        self._index = np.concatenate(indices)

    def __len__(self) -> int:
        """Returns the number of records in all files."""
        return len(self._index)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns one example: 'image' (s, s, 3) float32 and 'label' int32."""
        position = range(len(self))[operator.index(index)]
        shard = int(np.searchsorted(self._starts, position, "right")) - 1
        path = self._paths[shard]
        where = f"{path}: record {position - self._starts[shard]}"
        offset, length = self._index[position].tolist()
        with open_data_file(path, "a TFRecord file") as file:
            data = _read_data(file, offset, length, where)
        image, label = read_image_example(data, self.image_size, where)
        return {"image": image, "label": np.asarray(label, np.int32)}

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Returns the examples at `indices` (b,) as one batch."""
        examples = [self[index] for index in indices]
        return {name: np.stack([e[name] for e in examples]) for name in ("image", "label")}

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """Labels (n,) uint8. The first use reads every record."""
        return np.array([self[index]["label"] for index in range(len(self))], np.uint8)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the files' names, sizes or stored checksums of data."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path, start, stop in zip(self._paths, self._starts, self._starts[1:], strict=False):
            with open_data_file(path, "a TFRecord file") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(os.fsencode(path.name) + b"\0%d\0" % size)
                for offset, length in self._index[start:stop].tolist():
                    file.seek(offset + length)
                    digest.update(file.read(CHECKSUM.size))
        return digest.hexdigest()[:16]
