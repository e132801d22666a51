"""TFRecord files against an independent encoder, and every way in which they can be damaged."""

import os
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.data.tfrecord import (
    TFRecordImages,
    TFRecordWriter,
    build_index,
    decode_example,
    encode_example,
    masked_crc32c,
    read_image_example,
    read_tfrecord,
)
from common.errors import DataError, UserError

SIZE = 4


def slow_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def slow_mask(data: bytes) -> int:
    crc = slow_crc32c(data)
    return (((crc >> 15) | (crc << 17) & 0xFFFFFFFF) + 0xA282EAD8) % 2**32


def framed(data: bytes, length: int | None = None) -> bytes:
    """One record; with `length` its header claims another length, under a right checksum."""
    header = struct.pack("<Q", len(data) if length is None else length)
    return b"".join(
        (header, struct.pack("<I", slow_mask(header)), data, struct.pack("<I", slow_mask(data)))
    )


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited protocol buffer field of fewer than 128 bytes."""
    return bytes([number << 3 | 2, len(payload)]) + payload


def image_record(number: int, label: int | None = None, **features) -> bytes:
    image = np.random.default_rng(number).normal(size=(SIZE, SIZE, 3)).astype("<f4")
    label = number % 2 if label is None else label
    return encode_example({"image": image.tobytes(), "label": label} | features)


def write(path, *records: bytes):
    with TFRecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    return path


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (bytes(32), 0x8A9136AA),  # RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
    ],
)
def test_checksums_are_those_of_the_standard(data, crc):
    assert slow_crc32c(data) == crc
    assert masked_crc32c(data) == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    assert masked_crc32c(memoryview(b"x" + data)[1:]) == masked_crc32c(data)


def test_a_file_has_the_documented_bytes(tmp_path):
    records = [b"a", b"second record", bytes(range(256))]
    path = write(tmp_path / "x.tfrecord", *records)
    assert path.read_bytes() == b"".join(map(framed, records))
    assert list(read_tfrecord(path)) == records


def test_an_example_has_the_documented_bytes():
    image, label = field(1, field(1, b"\x01\xff")), field(3, field(1, b"\x01"))
    scores = field(2, field(1, struct.pack("<2f", 0.5, -2.0)))
    entries = [(b"image", image), (b"label", label), (b"scores", scores)]
    message = b"".join(field(1, field(1, name) + field(2, value)) for name, value in entries)
    features = {"scores": [0.5, -2.0], "label": 1, "image": b"\x01\xff"}
    assert encode_example(features) == field(1, message)
    assert encode_example(dict(reversed(features.items()))) == field(1, message)
    wanted = {"scores": [0.5, -2.0], "label": [1], "image": [b"\x01\xff"]}
    assert decode_example(field(1, message)) == wanted


int64 = st.integers(-(2**63), 2**63 - 1)
values = st.lists(st.binary(), max_size=3) | st.lists(int64) | st.lists(st.floats(width=32))


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=5), values, max_size=4))
def test_examples_come_back(features):
    np.testing.assert_equal(decode_example(encode_example(features)), features)


def test_numbers_of_numpy_are_stored_like_those_of_python():
    numbers = {"a": np.array([[1, 2], [3, 4]]), "b": np.float32(0.5), "c": np.int64(3), "d": True}
    wanted = {"a": [1, 2, 3, 4], "b": [0.5], "c": [3], "d": [1]}
    assert decode_example(encode_example(numbers)) == wanted


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("text", TypeError, "holds a str; expected bytes, int or float"),
        (None, TypeError, "holds a NoneType"),
        (np.array([b"x\0"]), TypeError, "holds a ndarray"),
        ([1, 0.5], TypeError, "mixes float and int64"),
        (2**63, ValueError, "range"),
    ],
)
def test_other_values_are_refused(value, error, message):
    with pytest.raises(error, match=message):
        encode_example({"x": value})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(records=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=6))
def test_records_come_back_and_the_index_finds_them(tmp_path, records):
    path = write(tmp_path / "x.tfrecord", *records)
    assert list(read_tfrecord(path)) == records
    index = build_index(path)
    assert (index.dtype, index.shape) == (np.int64, (len(records), 2))
    content = path.read_bytes()
    assert [content[start : start + length] for start, length in index] == records


def test_every_flipped_byte_is_found(tmp_path):
    records = [b"first", image_record(0)[:60], b"x"]
    content = b"".join(map(framed, records))
    path = tmp_path / "x.tfrecord"
    rng = np.random.default_rng(0)
    starts = np.cumsum([0] + [len(framed(record)) for record in records])
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        number = np.searchsorted(starts, position, "right") - 1
        with pytest.raises(DataError, match=rf"x\.tfrecord: record {number}: wrong checksum"):
            list(read_tfrecord(path))


def test_every_cut_is_found(tmp_path):
    records = [b"first", b"the second"]
    content = b"".join(map(framed, records))
    path = tmp_path / "x.tfrecord"
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        if length == len(framed(records[0])):
            assert list(read_tfrecord(path)) == records[:1]  # a file may end between records
            continue
        number = int(length > len(framed(records[0])))
        for read in (build_index, lambda path: list(read_tfrecord(path))):
            with pytest.raises(DataError, match=f"record {number}: cut off"):
                read(path)


GOOD = framed(b"good")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file; expected TFRecords"),
        (GOOD + GOOD[:7], "record 1: cut off: header of 7 bytes, expected 12"),
        (GOOD + GOOD[:14], "record 1: cut off: 4 bytes of data expected, 2 left"),
        (GOOD + GOOD[:-1], "record 1: cut off: checksum of the data expected, 3 bytes left"),
        (GOOD + b"\x05" + GOOD[1:], "record 1: wrong checksum of the length"),
        (GOOD + framed(b""), "record 1: length 0; expected at least one byte"),
        (GOOD + framed(b"good", 5), "record 1: cut off: checksum of the data expected, 3"),
        (GOOD + framed(b"good", 2**60), f"record 1: cut off: {2**60} bytes of data expected, 8"),
        (GOOD + framed(b"good", 2**64 - 1), f"{2**64 - 1} bytes of data expected, 8 left"),
        (b"\x1f\x8b\x08" + bytes(30), "record 0: .* gzip-compressed"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "record 0: .* no TFRecord file"),
    ],
)
def test_faults_of_a_file_are_named(tmp_path, content, message):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(content)
    for read in (build_index, lambda path: list(read_tfrecord(path))):
        with pytest.raises(DataError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_a_huge_length_allocates_nothing(tmp_path):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(framed(b"good", 2**60))
    tracemalloc.start()
    try:
        with pytest.raises(DataError):
            list(read_tfrecord(path))
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for name, message in [
        ("none", "does not exist"),
        (".", "is a folder"),
        ("pipe", "no regular"),
        ("n" * 300, "name too long"),
    ]:
        with pytest.raises(DataError, match=f"(?i){message}"):
            next(read_tfrecord(tmp_path / name))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_file_that_was_not_finished_does_not_appear(tmp_path, error):
    path = tmp_path / "x.tfrecord"
    with pytest.raises(error), TFRecordWriter(path) as writer:
        writer.write(b"one")
        assert not path.exists()
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_finished_file_replaces_the_old_one_and_leaves_no_other(tmp_path):
    path = write(tmp_path / "x.tfrecord", b"old")
    with pytest.raises(RuntimeError), TFRecordWriter(path) as writer:
        writer.write(b"new")
        raise RuntimeError
    assert list(read_tfrecord(path)) == [b"old"]
    write(path, b"new")
    assert list(read_tfrecord(path)) == [b"new"]
    assert list(tmp_path.iterdir()) == [path]


def test_the_writer_refuses_what_the_reader_would(tmp_path):
    with pytest.raises(ValueError, match="record 0 is empty"):
        write(tmp_path / "x.tfrecord", b"")
    with pytest.raises(ValueError, match="no record was written"):
        write(tmp_path / "x.tfrecord")
    with pytest.raises(ValueError, match="only inside its with block"):
        TFRecordWriter(tmp_path / "x.tfrecord").write(b"x")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"cannot write .*: No such file or directory"):
        write(tmp_path / "none" / "x.tfrecord", b"x")


def test_an_image_comes_back():
    image, label = read_image_example(image_record(3, height=SIZE, channels=3), SIZE, "here")
    wanted = np.random.default_rng(3).normal(size=(SIZE, SIZE, 3)).astype(np.float32)
    np.testing.assert_array_equal(image, wanted)
    assert (image.dtype, label, type(label)) == (np.float32, 1, int)
    raw = struct.pack("<12f", *range(12))
    image, label = read_image_example(encode_example({"image": raw, "label": 0}), 2, "here")
    np.testing.assert_array_equal(image, np.arange(12).reshape(2, 2, 3))
    assert label == 0


PIXELS = bytes(SIZE * SIZE * 12)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"label": 1}, "no feature 'image'; expected one bytes; features: label"),
        ({"image": PIXELS}, "no feature 'label'; expected one int64; features: image"),
        ({}, "no feature 'label'; expected one int64; features: none"),
        ({"image": PIXELS[1:], "label": 1}, "image has 191 bytes; expected 192, float32 of 4 x 4"),
        ({"image": b"", "label": 1}, "image has 0 bytes; expected 192"),
        ({"image": [PIXELS] * 2, "label": 1}, "'image' has 2 values; expected one bytes"),
        ({"image": 5, "label": 1}, "'image' is int64; expected one bytes"),
        ({"image": PIXELS, "label": 1.0}, "'label' is float; expected one int64"),
        ({"image": PIXELS, "label": b"1"}, "'label' is bytes; expected one int64"),
        ({"image": PIXELS, "label": [0, 1]}, "'label' has 2 values; expected one int64"),
        ({"image": PIXELS, "label": []}, "'label' has 0 values; expected one int64"),
        ({"image": PIXELS, "label": 2}, "label is 2; expected 0 or 1"),
        ({"image": PIXELS, "label": -1}, "label is -1; expected 0 or 1"),
        ({"image": PIXELS, "label": 1, "height": 5}, "height is 5; expected 4"),
        ({"image": PIXELS, "label": 1, "width": 5}, "width is 5; expected 4"),
        ({"image": PIXELS, "label": 1, "channels": 1}, "channels is 1; expected 3"),
        ({"image": PIXELS, "label": 1, "width": 4.0}, "'width' is float; expected one int64"),
        ({"image": PIXELS[4:] + struct.pack("<f", np.nan), "label": 1}, "not finite"),
        ({"image": PIXELS[4:] + struct.pack("<f", -np.inf), "label": 1}, "not finite"),
    ],
)
def test_faults_of_an_image_are_named(features, message):
    with pytest.raises(DataError, match=f"^f: record 7: .*{message}") as caught:
        read_image_example(encode_example(features), SIZE, "f: record 7")
    assert "\n" not in str(caught.value)


def test_other_protocol_buffers_are_refused():
    with pytest.raises(DataError, match="f: record 7: 3 bytes that are no tf.train.Example"):
        read_image_example(b"\x0a\xff\xff", SIZE, "f: record 7")


@given(st.binary(max_size=100))
def test_random_bytes_are_no_image(data):
    with pytest.raises(DataError):
        read_image_example(data, SIZE, "here")


@pytest.fixture
def shards(tmp_path):
    records = [image_record(number) for number in range(9)]
    return [
        write(tmp_path / "a.tfrecord", *records[:4]),
        write(tmp_path / "b.tfrecord", *records[4:5]),
        write(tmp_path / "c.tfrecord", *records[5:]),
    ]


def test_random_access_equals_iteration(shards):
    source = TFRecordImages(shards, SIZE)
    wanted = [read_image_example(r, SIZE, "") for path in shards for r in read_tfrecord(path)]
    assert len(source) == len(wanted) == 9
    for index in (8, 0, 3, 4, 5, -1, -9):
        np.testing.assert_array_equal(source[index]["image"], wanted[index][0])
        assert source[index]["label"] == wanted[index][1]
    batch = source.__getitems__(np.array([7, 4, 4]))
    np.testing.assert_array_equal(batch["image"], np.stack([wanted[i][0] for i in (7, 4, 4)]))
    assert (batch["label"].dtype, batch["label"].tolist()) == (np.int32, [1, 0, 0])
    assert source.labels.dtype == np.uint8
    assert source.labels.tolist() == [label for _, label in wanted]
    for index in (9, -10):
        with pytest.raises(IndexError):
            source[index]


def test_threads_read_the_same(shards):
    source = TFRecordImages(shards, SIZE)
    wanted = [source[index]["image"].tobytes() for index in range(9)]
    order = np.random.default_rng(0).integers(0, 9, 300).tolist()
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(lambda index: source[index]["image"].tobytes(), order))
    assert images == [wanted[index] for index in order]


def test_the_fingerprint_changes_with_contents_and_names_but_not_with_the_place(shards, tmp_path):
    first = TFRecordImages(shards, SIZE).fingerprint
    assert len(first) == 16 and int(first, 16) >= 0
    moved = tmp_path / "moved"
    moved.mkdir()
    copies = [write(moved / path.name, *read_tfrecord(path)) for path in shards]
    assert TFRecordImages(copies, SIZE).fingerprint == first
    others = [TFRecordImages(copies[:2], SIZE).fingerprint]
    others.append(TFRecordImages(copies[::-1], SIZE).fingerprint)
    write(copies[1], image_record(4, label=1))
    others.append(TFRecordImages(copies, SIZE).fingerprint)
    write(copies[1], *read_tfrecord(shards[1]))
    copies[1] = copies[1].rename(moved / "other.tfrecord")
    others.append(TFRecordImages(copies, SIZE).fingerprint)
    assert len({first, *others}) == 5


def test_damage_is_named_by_file_and_record(shards):
    content = bytearray(shards[2].read_bytes())
    offset, length = build_index(shards[2])[1]
    content[offset + length // 2] ^= 1
    shards[2].write_bytes(content)
    source = TFRecordImages(shards, SIZE)
    assert source[5]["label"] == 1
    with pytest.raises(DataError, match=r"c\.tfrecord: record 1: wrong checksum of the data"):
        source[6]
    shards[2].write_bytes(content[:offset])
    with pytest.raises(DataError, match=r"c\.tfrecord: record 1: the file was cut off"):
        source[6]
    shards[2].unlink()
    with pytest.raises(DataError, match=r"c\.tfrecord: does not exist"):
        source[6]


def test_a_source_checks_its_arguments(shards):
    assert len(TFRecordImages(shards[0], SIZE)) == len(TFRecordImages(str(shards[0]), SIZE)) == 4
    with pytest.raises(DataError, match="no TFRecord file given"):
        TFRecordImages([], SIZE)
    with pytest.raises(DataError, match=r"record 0: image has 192 bytes; expected 300"):
        TFRecordImages(shards, 5)[0]
    sizes: list[Any] = [0, -1, True, 4.0, "4", None, 5000]
    for size in sizes:
        with pytest.raises(DataError, match="image_size is .*; expected a whole number from 1"):
            TFRecordImages(shards, size)


def test_names_of_features_are_shown_in_one_line():
    record = encode_example({"a\nb": 1})
    with pytest.raises(DataError, match=r"features: a\\nb$"):
        read_image_example(record, 4, "x: record 0")
