"""What `experiments.fuzz` feeds: for each reader, sound files and ways to damage them."""

import collections
import dataclasses
import functools
import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax.core import FrozenDict
from safetensors.numpy import save

from common.checkpoints import load_pickle, load_safetensors
from common.data.tfrecord import (
    CHECKSUM,
    HEADER,
    encode_example,
    masked_crc32c,
    read_image_example,
    read_tfrecord,
)

SIDE = 4
NUMBERS = (0, 1, 2, 4, 255, 256, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, -1)

OPCODES = (
    *(bytes([code]) for code in b"(.0123NRabdehlopqrstuBCDGIJKLMPQSTUVX\x80\x81\x82\x85\x86\x87"),
    *(bytes([code]) for code in range(0x88, 0x99)),
    *(bytes([code, 0]) for code in b"hqKC\x8cU"),
    *(bytes([code, 255, 255, 255, 255]) for code in b"jrJBXT\x8b"),
    b"\x95" + b"\xff" * 8, b"\x96" + b"\xff" * 8, b"\x8e\x00\x00\x00\x80\x00\x00\x00\x00",
    b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cbuiltins\neval\n", b"cos\nsystem\n",
    b"cnumpy._core.multiarray\n_reconstruct\n", b"cnumpy._core.multiarray\nscalar\n",
    b"cnumpy._core.numeric\n_frombuffer\n", b"c_codecs\nencode\n", b"cbuiltins\nset\n",
    b"ccollections\nOrderedDict\n", b"cflax.core.frozen_dict\nFrozenDict\n",
    b"cjax._src.array\n_reconstruct_array\n", b"cbuiltins\nbytearray\n", b"cnumpy\ndtype\nR",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader, sound files for it, and how to damage one of its own kind of file.

    Attributes:
        seeds: Makes the sound files.
        damage: Changes one so that its outer form stays sound.
        read: Reads all of a file.
    """

    seeds: Callable[[], list[bytes]]
    damage: Callable[[np.random.Generator, bytes], bytes]
    read: Callable[[Path], Any]

    def change(self, rng: np.random.Generator) -> bytes:
        """Returns one of the sound files with a change, or a few."""
        seeds = self.seeds()
        data = seeds[rng.integers(len(seeds))]
        for _ in range(rng.geometric(0.7)):
            change = self.damage if rng.random() < 0.6 else _change_bytes
            data = change(rng, data)
        return data


def _change_bytes(rng: np.random.Generator, data: bytes) -> bytes:
    """Flips a bit, sets, inserts, removes, repeats or swaps bytes, or cuts the file."""
    if not data:
        return bytes(rng.integers(0, 256, 3, np.uint8))
    start, stop = sorted(int(x) for x in rng.integers(0, len(data) + 1, 2))
    place = min(start, len(data) - 1)
    stop = min(stop, start + 64)
    match rng.integers(7):
        case 0:
            new = bytes([data[place] ^ (1 << int(rng.integers(8)))])
            return data[:place] + new + data[place + 1 :]
        case 1:
            return data[:place] + bytes(rng.integers(0, 256, 1, np.uint8)) + data[place + 1 :]
        case 2:
            return data[:start] + bytes(rng.integers(0, 256, 4, np.uint8)) + data[start:]
        case 3:
            return data[:start] + data[stop:]
        case 4:
            return data[:stop] + data[start:stop] * int(rng.integers(1, 20)) + data[stop:]
        case 5:
            return data[:start]
        case _:
            number = NUMBERS[rng.integers(len(NUMBERS))] & (2**64 - 1)
            width = int(rng.choice([1, 2, 4, 8]))
            new = number.to_bytes(8, "little")[:width]
            return data[:start] + new + data[start + width :]


@functools.cache
def _pickles() -> list[bytes]:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    ordered = collections.OrderedDict(a=1, b=[2.5, None])
    contents = [
        {"params": {"w": array, "b": array[0], "t": array.T[:, :1]}, "epoch": 3},
        {"a": FrozenDict({"b": {"c": np.zeros((0, 2), ">i2")}}), "s": {1, "x"}, "o": ordered},
        {"j": jnp.ones(2), "h": np.ones(2, ml_dtypes.bfloat16), "n": [np.float64(1), np.bool_(1)]},
        {"args": {"lr": 1e-3, "name": "é", "n": 2**70, "flags": (True, False)}, 5: b"bytes" * 9},
        {"same": [array, array, (array, [array])], "c": 1 + 2j, "ba": bytearray(b"xyz")},
    ]
    return [pickle.dumps(content, protocol) for content in contents for protocol in range(6)]


def _damage_pickle(rng: np.random.Generator, data: bytes) -> bytes:
    """Puts opcodes somewhere, in place of others or between them; or joins two files."""
    start = int(rng.integers(0, len(data) + 1))
    if rng.random() < 0.1:
        other = _pickles()[rng.integers(len(_pickles()))]
        return data[:start] + other[int(rng.integers(0, len(other))) :]
    new = b"".join(OPCODES[i] for i in rng.integers(0, len(OPCODES), rng.integers(1, 5)))
    return data[:start] + new + data[start + (len(new) if rng.random() < 0.5 else 0) :]


@functools.cache
def _tfrecords() -> list[bytes]:
    image = np.zeros((SIDE, SIDE, 3), "<f4").tobytes()
    sound = {"image": image, "label": 1, "height": SIDE, "width": SIDE, "channels": 3}
    records = [sound, {"image": image, "label": 0, "floats": [1.5, 2.5], "many": [1, -1]}]
    return [_records([encode_example(record) for record in records[:count]]) for count in (1, 2)]


def _records(records: list[bytes]) -> bytes:
    file = io.BytesIO()
    for record in records:
        length = struct.pack("<Q", len(record))
        file.write(length + CHECKSUM.pack(masked_crc32c(length)) + record)
        file.write(CHECKSUM.pack(masked_crc32c(record)))
    return file.getvalue()


def _damage_tfrecord(rng: np.random.Generator, data: bytes) -> bytes:
    """Changes the first record or its length, and makes the checksums right again."""
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.7:
        record = _change_bytes(rng, data[HEADER.size : HEADER.size + length])
        return _records([record]) + data[HEADER.size + length + CHECKSUM.size :]
    number = (NUMBERS[rng.integers(len(NUMBERS))] & (2**64 - 1)).to_bytes(8, "little")
    return number + CHECKSUM.pack(masked_crc32c(number)) + data[HEADER.size :]


def _read_tfrecord(path: Path) -> None:
    for number, record in enumerate(read_tfrecord(path)):
        read_image_example(record, SIDE, f"{path}: record {number}")


@functools.cache
def _safetensors() -> list[bytes]:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    return [
        save({"a.w": array, "a.b": array[0], "n": np.array(3)}, {"format": "np"}),
        save({"h": np.ones(3, ml_dtypes.bfloat16), "e": np.zeros((0, 2)), "t": np.ones(2, bool)}),
    ]


def _damage_safetensors(rng: np.random.Generator, data: bytes) -> bytes:
    """Changes an entry of the header, or its text, and makes its length right again."""
    length = int.from_bytes(data[:8], "little")
    text, rest = data[8 : 8 + length], data[8 + length :]
    try:
        header = json.loads(text)
        entry = header[sorted(header)[rng.integers(len(header))]]
        numbers = [list(entry["shape"]), list(entry["data_offsets"])][which := rng.integers(2)]
        entry[("shape", "data_offsets")[which]] = numbers
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        text = _change_bytes(rng, text)
        return struct.pack("<Q", len(text)) + text + rest
    number = NUMBERS[rng.integers(len(NUMBERS))]
    match rng.integers(5):
        case 0 if numbers:
            numbers[rng.integers(len(numbers))] = number
        case 1:
            numbers.append(number)
        case 2:
            entry["dtype"] = ["F32", "F64", "BOOL", "F8_E5M2", "X", None, 1][rng.integers(7)]
        case 3:
            entry["x" if rng.random() < 0.5 else "shape"] = [None, {}, [[]], 1.5][rng.integers(4)]
        case _:
            header["twin"] = entry
    text = json.dumps(header).encode()
    if rng.random() < 0.3:
        text = text.replace(b'"a.b"', b'"a.w"').replace(b'"e"', b'"h"')
    return struct.pack("<Q", len(text)) + text + rest


TARGETS = {
    "pickle": Target(_pickles, _damage_pickle, load_pickle),
    "tfrecord": Target(_tfrecords, _damage_tfrecord, _read_tfrecord),
    "safetensors": Target(_safetensors, _damage_safetensors, load_safetensors),
}
