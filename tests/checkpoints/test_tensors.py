"""safetensors come back as they were; a damaged file is refused by its name."""

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from common.checkpoints import check_shapes, load_hf_tensors, load_safetensors, save_safetensors
from common.errors import DataError, UserError

TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.ones(3, ml_dtypes.bfloat16),
    "empty": np.zeros((0, 2)),
    "single": np.array(3, np.int64),
    "flags": np.array([True, False]),
    "moved": np.arange(6.0).reshape(2, 3).T,
    "big": np.arange(3, dtype=">i4"),
    "complex": np.ones(2, np.complex64),
}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype.newbyteorder("=")
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_tensors_come_back(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_safetensors(path, TENSORS, {"note": "é"})
    assert_same(load_safetensors(path), TENSORS)
    assert_same(load_file(path), TENSORS)
    assert {file.name for file in tmp_path.iterdir()} == {"x.safetensors"}
    with pytest.raises(UserError, match=r"x\.safetensors exists already"):
        save_safetensors(path, TENSORS)
    save_safetensors(path, {"b": np.ones(1)}, overwrite=True)
    assert_same(load_safetensors(path), {"b": np.ones(1)})


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no complex128, the dtype of x"):
        save_safetensors(tmp_path / "x", {"x": np.ones(1, complex)})
    with pytest.raises(UserError, match="cannot write .*none/x: No such file"):
        save_safetensors(tmp_path / "none" / "x", {"x": np.ones(1)})
    assert not list(tmp_path.iterdir())


def tensor(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def packed(header: Any, data: bytes = bytes(8), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


HUGE = 2**62


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes; expected a safetensors file"),
        (packed({"a": tensor()}, length=2**40), "a header of 1099511627776 bytes"),
        (packed({"a": tensor()}, length=99_999_999), "a header of 99999999 bytes expected"),
        (packed({"a": tensor()}, bytes(7)), "cut off: 8 bytes of tensors expected, 7 left"),
        (packed({"a": tensor()}, bytes(9)), "goes on for 1 bytes after its last tensor"),
        (packed({}, b"x"), "goes on for 1 bytes"),
        (packed(b"[]"), "no JSON object"),
        (packed(b"{"), "no JSON object"),
        (packed(b'{"a": NaN}'), "no JSON object"),
        (packed(b"{" + b'"a":[' * 100_000), "no JSON object"),
        (packed(b'{"\xff": 1}'), "not UTF-8"),
        (packed(b'{"a": 1, "b": 2, "a": 3}'), "a stands there twice"),
        (packed(b'{"a": {"dtype": "F32", "dtype": "F64"}}'), "dtype stands there twice"),
        (packed({"__metadata__": {"a": 1}}), "__metadata__ is not text by name"),
        (packed({"__metadata__": []}), "__metadata__ is not text by name"),
        (packed({"a": []}), "tensor a is not described by"),
        (packed({"a": {"dtype": "F32"}}), "tensor a is not described by"),
        (packed({"a": tensor(more=1)}), "tensor a is not described by"),
        (packed({"a": tensor("F31")}), "tensor a has dtype F31; expected one of BOOL"),
        (packed({"a": tensor(None)}), "tensor a has dtype NoneType"),
        (packed({"a": tensor(shape=[-2])}), "tensor a has no shape"),
        (packed({"a": tensor(shape=[True])}), "tensor a has no shape"),
        (packed({"a": tensor(shape=2)}), "tensor a has no shape"),
        (packed({"a": tensor(shape=[1] * 33)}), "tensor a has no shape of 32 axes or fewer"),
        (packed({"a": tensor(shape=[HUGE, 2])}), "tensor a is too large for any machine"),
        (packed({"a": tensor(shape=[HUGE, 4, 0], offsets=[0, 0])}), "too large for any machine"),
        (packed({"a": tensor(offsets=[8, 0])}), "tensor a has no data_offsets from where to where"),
        (packed({"a": tensor(offsets=[0, 8, 8])}), "tensor a has no data_offsets"),
        (packed({"a": tensor(offsets=[-8, 0])}), "tensor a has no data_offsets"),
        (packed({"a": tensor(shape=[3])}), r"tensor a F32\[3\] has 8 bytes; expected 12"),
        (packed({"a": tensor(), "b": tensor()}), "tensor b overlaps tensor a"),
        (packed({"a": tensor(), "b": tensor(offsets=[4, 12])}), "tensor b overlaps tensor a"),
        (packed({"a": tensor(offsets=[8, 16])}, bytes(16)), "a leaves a gap after the header"),
        (packed({"a": tensor("BOOL", [8])}, b"\x02" * 8), "of bools has other numbers"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"x\.safetensors: .*{message}") as caught:
        load_safetensors(path)
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    data = packed({"a": tensor()})
    path.write_bytes(data)
    np.testing.assert_array_equal(load_safetensors(path)["a"], [0, 0])
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(DataError, match=r"x\.safetensors: "):
            load_safetensors(path)


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    names = list(TENSORS)
    shards = {"1.safetensors": names[:4], "2.safetensors": names[4:]}
    for shard, held in shards.items():
        save_safetensors(tmp_path / shard, {name: TENSORS[name] for name in held})
    write_index(tmp_path, {name: shard for shard, held in shards.items() for name in held})
    return tmp_path


def write_index(folder: Path, weight_map: Any) -> None:
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(text)


def test_hugging_face_folders_are_read(sharded: Path) -> None:
    assert_same(load_hf_tensors(sharded), TENSORS)
    save_safetensors(sharded / "model.safetensors", {"whole": np.ones(2)})
    assert_same(load_hf_tensors(sharded), {"whole": np.ones(2)})
    with pytest.raises(DataError, match=r"model\.safetensors: does not exist"):
        load_hf_tensors(sharded / "none")


def test_damaged_hugging_face_folders_are_named(sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    listed = json.loads(index.read_text())["weight_map"]
    for changes, message in [
        ({"more": "2.safetensors"}, r"2\.safetensors: does not hold what .*: more is missing"),
        ({"flags": "1.safetensors"}, r"1\.safetensors: does not hold .*: flags is missing"),
        ({"half": "3.safetensors"}, "half is not listed there"),
        ({"half": "../x.safetensors"}, r"index\.json: half is in \.\./x\.safetensors; expected"),
        ({"half": "/etc/x.safetensors"}, "expected a file of this folder"),
        ({"half": "x.bin"}, "expected a file of this folder"),
        ({"half": 1}, "expected a file of this folder"),
    ]:
        write_index(sharded, listed | changes)
        with pytest.raises(DataError, match=message):
            load_hf_tensors(sharded)
    for text, message in [("[]", "no JSON object"), ("{}", "no weight_map"), ("{", "no JSON")]:
        index.write_text(text)
        with pytest.raises(DataError, match=rf"index\.json: .*{message}"):
            load_hf_tensors(sharded)
    write_index(sharded, listed)
    (sharded / "2.safetensors").unlink()
    with pytest.raises(DataError, match=r"2\.safetensors: does not exist"):
        load_hf_tensors(sharded)


def test_shapes_are_compared() -> None:
    tensors = {"a": np.ones((2, 3)), "b": np.ones(1)}
    check_shapes(tensors, {"a": (2, 3), "b": (1,)}, "model")
    with pytest.raises(DataError, match=r"model: does not fit: a is \[2, 3\], expected \[3, 2\]; "
                       "b is unknown; c is missing"):  # fmt: skip
        check_shapes(tensors, {"a": (3, 2), "c": (1,)}, "model")
    with pytest.raises(DataError, match="and 10 more"):
        check_shapes({}, {str(i): () for i in range(30)}, "model")
