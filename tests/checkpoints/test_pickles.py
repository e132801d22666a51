"""Pickles of arrays come back as they were; any other pickle is refused and runs nothing."""

import codecs
import datetime
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.core import FrozenDict

from common.checkpoints import read_pickle
from common.errors import DataError

PROTOCOLS = [2, 3, 4, 5]


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    cube = rng.standard_normal((2, 3, 4)).astype(np.float32)
    return {
        "plain": cube,
        "fortran": np.asfortranarray(cube),
        "moved": cube.transpose(1, 2, 0),
        "sliced": cube[:, ::2],
        "big_endian": cube.astype(">f8"),
        "empty": np.zeros((0, 3), np.float16),
        "single": np.array(7, np.int64),
        "flags": np.array([True, False]),
        "complex": cube.astype(np.complex64),
        "scalar": np.float32(0.5),
    }


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def with_numpy_1_names(data: bytes) -> bytes:
    """Renames the modules of NumPy 2 in a pickle of one frame, and mends its lengths."""
    if data[1] < 4:
        return data.replace(b"cnumpy._core.", b"cnumpy.core.")
    (length,) = struct.unpack("<Q", data[3:11])
    body, renamed = data[11 : 11 + length], 0
    for module in (b"multiarray", b"numeric"):
        old, new = b"numpy._core." + module, b"numpy.core." + module
        renamed += body.count(old)
        body = body.replace(bytes([0x8C, len(old)]) + old, bytes([0x8C, len(new)]) + new)
    return data[:3] + struct.pack("<Q", length - renamed) + body + data[11 + length :]


@pytest.mark.parametrize("rename", [False, True], ids=["numpy2", "numpy1"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", arrays())
def test_arrays_come_back(tmp_path: Path, name: str, protocol: int, rename: bool) -> None:
    expected = arrays()[name]
    path = write(tmp_path / "x.pkl", {"a": {"b": expected}}, protocol)
    if rename:
        data = path.read_bytes()
        path.write_bytes(with_numpy_1_names(data))
        assert b"numpy._core" not in path.read_bytes()
    found = read_pickle(path)["a"]["b"]
    assert found.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_checkpoints_come_back(tmp_path: Path, protocol: int) -> None:
    args = {"lr": 3e-4, "bf16": True, "cssm": "gated", "resume": None, "sizes": [1, (2, 3)]}
    content = {"epoch": 19, "params": {"a": np.arange(3)}, "training_args": args}
    found = read_pickle(write(tmp_path / "x.pkl", content, protocol))
    np.testing.assert_array_equal(found["params"].pop("a"), np.arange(3))
    assert found == content | {"params": {}}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_frozen_dicts_become_dicts(tmp_path: Path, protocol: int) -> None:
    content = {"params": FrozenDict({"a": {"b": np.arange(3)}})}
    found = read_pickle(write(tmp_path / "x.pkl", content, protocol))
    assert type(found["params"]) is type(found["params"]["a"]) is dict
    np.testing.assert_array_equal(found["params"]["a"]["b"], np.arange(3))


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_run(tmp_path: Path, protocol: int) -> None:
    victim = tmp_path / "victim"
    path = write(tmp_path / "x.pkl", {"params": Call(os.mkdir, str(victim))}, protocol)
    with pytest.raises(DataError, match=r"x\.pkl: asks for posix\.mkdir; expected NumPy arrays"):
        read_pickle(path)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": Call(eval, "1 + 1")}, r"asks for (builtins|__builtin__)\.eval"),
        ({"a": Call(np.load, "x")}, r"asks for numpy\.load"),
        ({"a": Call(codecs.encode, "x", "rot13")}, "encodes text as rot13; expected latin1"),
        ({"a": OrderedDict()}, r"asks for collections\.OrderedDict"),
        ({"a": datetime.date(2026, 1, 1)}, r"asks for datetime\.date"),
        ({"a": np.array([{}, []], object)}, "dtype object; expected numbers"),
        ({"a": np.zeros(2, "datetime64[s]")}, "dtype datetime64.*; expected numbers"),
        ({"a": np.zeros(2, [("x", "f4")])}, "dtype .*; expected numbers"),
        ({"a": np.array(["x"])}, "dtype .*; expected numbers"),
        ({"a": [{1, 2}]}, r"(/a/0 is a set; expected arrays)|(asks for .*set)"),
        ({"a": np.ndarray}, "/a is a type; expected arrays"),
        ([1], "holds a list; expected a dict"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_content_is_refused(
    tmp_path: Path, content: Any, message: str, protocol: int
) -> None:
    with pytest.raises(DataError, match=rf"x\.pkl: .*{message}"):
        read_pickle(write(tmp_path / "x.pkl", content, protocol))


def test_arrays_of_other_libraries_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pkl", {"params": jax.numpy.arange(3)})
    with pytest.raises(DataError, match=r"asks for jax\."):
        read_pickle(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-40],
        lambda data: b"",
        lambda data: b"PK\x03\x04" + data,
        lambda data: data.replace(struct.pack("<I", 240), struct.pack("<I", 239), 1),
    ],
    ids=["cut", "empty", "foreign", "short_data"],
)
def test_broken_files_are_named(tmp_path: Path, damage: Any) -> None:
    path = write(tmp_path / "x.pkl", {"a": np.zeros((3, 20), np.float32)}, 2)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"x\.pkl: not a whole pickle of arrays"):
        read_pickle(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.pkl: cannot be read \(No such file"):
        read_pickle(tmp_path / "x.pkl")
