"""Pickles of arrays come back bit for bit, whoever wrote them and by whatever protocol."""

import contextlib
import io
import pickle
import pickletools
import struct
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.core import FrozenDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.checkpoints import load_pickle
from common.checkpoints.pickles import parse_pickle
from common.checkpoints.pickles.symbols import SYMBOLS
from common.checkpoints.refusal import Refusal
from common.errors import DataError
from experiments.fuzz_targets import TARGETS

PROTOCOLS = range(6)


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    cube = rng.standard_normal((2, 3, 4)).astype(np.float32)
    frozen = cube.copy()
    frozen.flags.writeable = False
    return {
        "plain": cube,
        "fortran": np.asfortranarray(cube),
        "moved": cube.transpose(1, 2, 0),
        "sliced": cube[:, ::2],
        "backwards": cube[::-1],
        "read_only": frozen,
        "big_endian": cube.astype(">f8"),
        "big_complex": (cube + 1j).astype(">c16"),
        "empty": np.zeros((0, 3), np.float16),
        "empty_bytes": np.zeros(0, np.int8),
        "single": np.array(7, np.int64),
        "flags": np.array([True, False]),
        "complex": cube.astype(np.complex64),
        "bfloat16": cube.astype(ml_dtypes.bfloat16),
        "float8": cube.astype(ml_dtypes.float8_e4m3fn),
        "nans": np.array([0x7FC00001, 0xFFC12345, 0x7F800001], np.uint32).view(np.float32),
        "signed_zero": np.array([0.0, -0.0]),
        "many_axes": np.ones((1,) * 32),
        "noted": np.ones(2, np.dtype("f4", metadata={"unit": "m"})),
        **{f"integer_{code}": np.arange(3, dtype=code) for code in "bBhHiIqQ"},
    }


def dumps(content: Any, protocol: int, in_python: bool = False) -> bytes:
    file = io.BytesIO()
    (pickle._Pickler if in_python else pickle.Pickler)(file, protocol).dump(content)
    return file.getvalue()


def with_numpy_1_names(data: bytes) -> bytes:
    """Renames the modules of NumPy 2 in a pickle of one frame, and mends its lengths."""
    if data[1] < 4 or data[:1] != b"\x80":
        return data.replace(b"cnumpy._core.", b"cnumpy.core.")
    (length,) = struct.unpack("<Q", data[3:11])
    body, renamed = data[11 : 11 + length], 0
    for module in (b"multiarray", b"numeric"):
        old, new = b"numpy._core." + module, b"numpy.core." + module
        renamed += body.count(old)
        body = body.replace(bytes([0x8C, len(old)]) + old, bytes([0x8C, len(new)]) + new)
    return data[:3] + struct.pack("<Q", length - renamed) + body + data[11 + length :]


@pytest.fixture
def load(tmp_path: Path) -> Any:
    def load(data: bytes) -> dict[str, Any]:
        path = tmp_path / "x.pkl"
        path.write_bytes(data)
        return load_pickle(path)

    return load


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray | np.generic):
        native = expected.dtype.newbyteorder("=")
        assert found.dtype == native
        assert found.shape == expected.shape
        assert found.tobytes() == expected.astype(native).tobytes()
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert repr(found) == repr(expected) if isinstance(expected, float) else found == expected


@pytest.mark.parametrize("rename", [False, True], ids=["numpy2", "numpy1"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", arrays())
def test_arrays_come_back(load: Any, name: str, protocol: int, rename: bool) -> None:
    expected = arrays()[name]
    for data in (dumps({"a": {"b": expected}}, protocol, python) for python in (False, True)):
        if rename and protocol:
            data = with_numpy_1_names(data)
            assert b"numpy._core" not in data
        found = load(data)["a"]["b"]
        assert_same(found, expected)
        assert found.flags.writeable
        assert found.flags.aligned
        assert_same(load(pickletools.optimize(data))["a"]["b"], expected)


PLAIN = {
    "epoch": 19,
    "numbers": [0, -1, 255, 65536, 2**31, -(2**31), 2**62, 2**64, -(2**100), True, False, None],
    "floats": [0.1, -0.0, float("inf"), float("nan"), 1e-320],
    "scalars": [np.float64(0.5), np.int64(3), np.bool_(True), np.float16(2), np.complex64(1j)],
    "text": ["", "a\nb", "q'\"", "ünï\U0001f600", "\ud800", "x" * 70_000],
    "bytes": [b"", b"abc", b"\xff" * 1000],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, (2, [3]), 4, 5)],
    "keys": {"é": 1, "a/b": 2, "": 3, "k" * 5000: 4, 5: 6, -1: 7, 2**40: 8},
    "sets": [set(), {1, "x", None, 2.5, b"b"}, frozenset({1, 2})],
    "many": {str(i): float(i) for i in range(2500)},
    "long": list(range(3000)),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("in_python", [False, True])
def test_plain_values_come_back(load: Any, protocol: int, in_python: bool) -> None:
    assert_same(load(dumps(PLAIN, protocol, in_python)), PLAIN)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_other_dicts_become_dicts(load: Any, protocol: int) -> None:
    ordered = OrderedDict(b=1, a=[2])
    ordered.note = "x"
    content = {
        "params": FrozenDict({"a": FrozenDict({"b": np.arange(3)}), "c": {}}),
        "ordered": ordered,
        "default": defaultdict(dict, {"a": {1: defaultdict(None)}}),
        "counts": [defaultdict(kind, {"a": kind()}) for kind in (int, float, bool, str, list, set)],
    }
    params = {"a": {"b": np.arange(3)}, "c": {}}
    expected = {"params": params, "ordered": dict(ordered), "default": {"a": {1: {}}}}
    expected["counts"] = [{"a": x} for x in (0, 0.0, False, "", [], set())]
    assert_same(load(dumps(content, protocol)), expected)
    assert_same(load(dumps(FrozenDict({"a": params}), protocol)), {"a": params})


def test_old_frozen_dicts_become_dicts(load: Any) -> None:
    data = b"\x80\x02}U\x06paramscflax.core.frozen_dict\nFrozenDict\n)\x81"
    data += b"N}(U\x05_dict}U\x01aK\x05sU\x05_hashNu\x86bs."
    assert load(data) == {"params": {"a": 5}}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_jax_become_numpy_arrays(load: Any, protocol: int) -> None:
    content = {
        "a": jnp.arange(6.0).reshape(2, 3),
        "b": jnp.ones(2, jnp.bfloat16),
        "key": jax.random.PRNGKey(1),
    }
    expected = {name: np.asarray(value) for name, value in content.items()}
    assert_same(load(dumps(content, protocol)), expected)
    if protocol < 3:
        names = b"jax._src.array\n_reconstruct", b"jax._src.device_array\nreconstruct_device"
        assert_same(load(dumps(content, protocol).replace(*names)), expected)


def test_pickles_of_python_2_come_back(load: Any) -> None:
    floats = struct.pack("<2d", 1.5, -2.0)
    parts = [
        b"\x80\x02}q\x01(U\x06paramscnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03",
        b"K\x00\x85q\x04U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tU\x02f8q\n",
        b"K\x00K\x01\x87q\x0bRq\x0c(K\x03U\x01<q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb",
        b"\x89U\x10" + floats + b"tb",
        b"U\x05orderccollections\nOrderedDict\n](](U\x01aK\x01ee\x85R",
        b"U\x03setc__builtin__\nset\n]K\x01a\x85Ru.",
    ]
    expected = {"params": np.array([1.5, -2.0]), "order": {"a": 1}, "set": {1}}
    assert_same(load(b"".join(parts)), expected)
    letters = "".join(f"\\x{byte:02x}" for byte in floats).encode()
    parts[3] = b"I00\nS'" + letters + b"'\ntb"
    assert_same(load(b"".join(parts)), expected)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_shared_stays_shared(load: Any, protocol: int) -> None:
    array, block = np.arange(4.0), {"scale": np.ones(2)}
    found = load(dumps({"a": array, "b": [array, (array,)], "c": block, "d": block}, protocol))
    assert found["a"] is found["b"][0] is found["b"][1][0]
    assert found["c"]["scale"] is found["d"]["scale"]


def test_arrays_of_one_byte_string_are_apart(load: Any) -> None:
    found = load(dumps([{"a": np.array([True])}, {"a": np.array([True])}][0], 4))
    many = load(dumps({str(i): np.array([i % 2 == 0]) for i in range(4)}, 4))
    many["0"][0] = False
    assert found["a"][0] and many["2"][0]


def test_nesting_up_to_the_bound_is_read(load: Any) -> None:
    content: Any = 1
    for _ in range(200):
        content = {"a": content}
    assert load(dumps(content, 4)) == content
    with pytest.raises(DataError, match="nested deeper than 200"):
        load(dumps({"a": content}, 4))


class Python(pickle.Unpickler):
    """Python's own reader, of the names that are known here."""

    def find_class(self, module: str, name: str) -> Any:
        assert (module, name) in SYMBOLS
        return super().find_class(module, name)


def test_what_is_read_of_a_damaged_file_is_what_python_reads() -> None:
    target, read = TARGETS["pickle"], 0
    for number in range(1500):
        data = target.change(np.random.default_rng((1, number)))
        with contextlib.suppress(Refusal, pickle.UnpicklingError, UnicodeDecodeError):
            found = parse_pickle(data)
            assert_same(found, plain(Python(io.BytesIO(data)).load()))
            read += 1
    assert read > 20


def plain(value: Any) -> Any:
    """Returns what is to be read of a value."""
    if isinstance(value, dict | FrozenDict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    if isinstance(value, bytearray):
        return bytes(value)
    return np.asarray(value) if isinstance(value, jax.Array) else value


keys = st.text(max_size=5) | st.integers(-(2**63), 2**64 - 1)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
trees = st.dictionaries(
    keys,
    st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=4)
        ),
        max_leaves=20,
    ),
    max_size=4,
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=trees, protocol=st.sampled_from(PROTOCOLS))
def test_any_plain_tree_comes_back(load: Any, content: Any, protocol: int) -> None:
    assert_same(load(dumps(content, protocol)), content)
