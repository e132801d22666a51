"""A pickle that is more, less or other than data is refused in one line, and nothing is run."""

import datetime
import io
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.checkpoints import load_pickle, pickles
from common.checkpoints.refusal import Refusal
from common.errors import DataError

START = b"\x80\x04"
DTYPE = b"cnumpy\ndtype\n\x8c\x02f4\x89\x88\x87R"
STATE = b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
BUFFER = b"cnumpy._core.numeric\n_frombuffer\n(C\x04abcd"
BEGUN = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"


def entry(value: bytes) -> bytes:
    """Returns a pickle of a dict whose one entry the opcodes make."""
    return START + b"}\x8c\x01x" + value + b"s."


def array(
    shape: bytes = b"K\x01\x85", dtype: bytes = DTYPE + STATE, data: bytes = b"C\x04abcd", more=b""
) -> bytes:
    return BEGUN + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb" + more


def refusal(data: bytes, tmp_path: Path) -> str:
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        load_pickle(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    return message.removeprefix(f"{path}: ")


def test_the_parts_make_an_array() -> None:
    found = pickles.parse_pickle(entry(array()))["x"]
    np.testing.assert_array_equal(found, np.frombuffer(b"abcd", "<f4"))


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_run(tmp_path: Path, protocol: int) -> None:
    victim = tmp_path / "victim"
    data = pickle.dumps({"params": Call(os.mkdir, str(victim))}, protocol)
    assert refusal(data, tmp_path) == (
        "asks for posix.mkdir; expected NumPy arrays, numbers and strings in dicts, and no other "
        "classes"
    )
    assert not victim.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"), ("__builtin__", "getattr"), ("os", "system"), ("nt", "system"),
        ("numpy._core.numeric", "builtins.eval"), ("numpy._core.multiarray", "functools.partial"),
        ("jax._src.array", "np.memmap"), ("collections", "_sys.modules"), ("numpy", "load"),
        ("numpy", "memmap"), ("numpy", "dtype.__init__"), ("numpy", "ndarray.tofile"),
        ("numpy.core.multiarray", "_reconstruct "), ("numpy._core.multiarray", "scalar.__class__"),
        ("numpy.f2py", "os.system"), ("pkgutil", "resolve_name"), ("numpy ", "dtype"),
        ("builtins", "type"), ("copyreg", "_reconstructor"), ("torch._utils", "_rebuild_tensor_v2"),
        ("flax.core.frozen_dict", "FrozenDict.__class__"), ("ml_dtypes", "finfo"),
        ("numpy", "dtypе"), ("a" * 1000, "b\n\x1b[31m" * 100),
    ],
)  # fmt: skip
def test_only_whole_names_are_known(tmp_path: Path, module: str, name: str) -> None:
    data = pickle.dumps((module, name), 4).replace(b"\x94\x86\x94.", b"\x94\x93)R.")
    assert refusal(data, tmp_path).startswith("asks for ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (datetime.date(2026, 1, 1), "asks for datetime.date"),
        (np.array([{}, []], object), "holds dtype O8; expected plain numbers"),
        (np.zeros(2, "datetime64[s]"), "holds dtype M8; expected plain numbers"),
        (np.zeros(2, [("x", "f4")]), "holds dtype V4; expected plain numbers"),
        (np.array(["x"]), "holds dtype U1; expected plain numbers"),
        (np.str_("x"), "holds dtype U1; expected plain numbers"),
        (np.void(b"x"), "holds dtype V1; expected plain numbers"),
        (np.zeros(2, np.longdouble), "holds dtype f16; expected plain numbers"),
        (np.ma.masked_array([1.0]), "asks for numpy.ma."),
        (np.ndarray, "/x is a type; expected arrays, numbers or strings"),
        (np.dtype("f4"), "/x is a dtype; expected arrays, numbers or strings"),
        (optax.EmptyState(), "asks for optax."),
        (jax.random.key(0), "asks for jax."),
        (Path("x"), "asks for pathlib.PosixPath"),
        ({1.5: 1}, "has a key of type float; expected text or a whole number of 64 bits"),
        ({True: 1}, "has a key of type bool"),
        ({(1, 2): 1}, "has a key of type tuple"),
        ({2**64: 1}, "has a key of type int"),
        ({(1, 2)}, "has a key of type tuple"),
    ],
)
@pytest.mark.parametrize("protocol", range(2, 5))
def test_other_content_is_refused(
    tmp_path: Path, content: Any, message: str, protocol: int
) -> None:
    assert message in refusal(pickle.dumps({"x": content}, protocol), tmp_path)


def test_the_whole_must_be_a_dict(tmp_path: Path) -> None:
    assert refusal(pickle.dumps([1]), tmp_path) == "holds a list; expected a dict"
    assert refusal(pickle.dumps(np.ones(2)), tmp_path) == "holds a ndarray; expected a dict"


MINUS = b"J\xff\xff\xff\xff"
HUGE = b"\x8a\x09" + (2**70).to_bytes(9, "little")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (array(data=b"C\x03abc"), "float32[1] of 3 bytes; expected 4"),
        (array(data=b"C\x05abcde"), "float32[1] of 5 bytes; expected 4"),
        (array(shape=b"J\xff\xff\xff\x7f\x85"), "of 4 bytes; expected 8589934588"),
        (array(shape=HUGE + b"\x85"), "too large for any machine"),
        (array(shape=HUGE + b"K\x00\x86", data=b"C\x00"), "too large for any machine"),
        (array(shape=MINUS + b"\x85"), "not of whole numbers from 0 on"),
        (array(shape=MINUS + MINUS + b"\x86"), "not of whole numbers from 0 on"),
        (array(shape=b"\x88\x85"), "not of whole numbers from 0 on"),
        (array(shape=b"G" + bytes(8) + b"\x85"), "not of whole numbers from 0 on"),
        (array(shape=b"]"), "is not that of 32 axes or fewer"),
        (array(shape=b"(" + b"K\x01" * 33 + b"t"), "is not that of 32 axes or fewer"),
        (array(data=b"]"), "makes an array from a list; expected bytes"),
        (array(data=b"\x8c\x04abcd"), "makes an array from a str; expected bytes"),
        (array(dtype=b"\x8c\x02f4"), "whose dtype is a str"),
        (array(dtype=b"cml_dtypes\nbfloat16\n"), "whose dtype is a type"),
        (array(more=b"(K\x01)" + DTYPE + b"\x89C\x04abcdtb"), "sets the state of an array twice"),
        (BEGUN, "/x is an array without its content"),
        (BEGUN + b"}b", "sets an array to what is no state"),
        (BEGUN + b"(K\x01K\x01\x85" + DTYPE + b"K\x02C\x04abcdtb", "an order that does not exist"),
        (BEGUN.replace(b"ndarray", b"dtype"), "begins an array in an unknown way"),
        (BEGUN.replace(b"K\x00\x85", b"K\x09\x85"), "begins an array in an unknown way"),
        (array(dtype=DTYPE.replace(b"f4", b"b1") + STATE.replace(b"<", b"|"), shape=b"K\x04\x85"),
         "bools that has other numbers"),
        (DTYPE.replace(b"f4", b"O8"), "holds dtype O8"),
        (DTYPE.replace(b"\x02f4", b"\x05f4,f4"), "holds dtype f4,f4"),
        (DTYPE.replace(b"\x89\x88", b"}K\x02"), "makes a dtype in an unknown way"),
        (DTYPE + STATE.replace(b"<", b"!"), "a byte order that does not exist"),
        (DTYPE + STATE.replace(b"<", b"|"), "a byte order that does not exist"),
        (DTYPE + STATE.replace(b"K\x00tb", b"K\x01tb"), "a state that does not belong to it"),
        (DTYPE + STATE.replace(b"NNN", b"N)}"), "a state that does not belong to it"),
        (DTYPE + STATE.replace(b"NNN", b"\x8c\x01xNN"), "a state that does not belong to it"),
        (DTYPE + STATE.replace(MINUS, b"K\x08", 1), "a state that does not belong to it"),
        (DTYPE + STATE.replace(b"K\x03", b"K\x01"), "a state that does not belong to it"),
        (DTYPE + STATE + STATE, "to what is no state of it"),
        (DTYPE + b"}b", "to what is no state of it"),
        (b"cnumpy._core.multiarray\nscalar\n" + DTYPE + b"C\x03abc\x86R", "of 3 bytes; expected 4"),
        (b"cnumpy._core.multiarray\nscalar\n" + DTYPE + b"\x85R", "scalar in an unknown way"),
        (b"cnumpy._core.multiarray\nscalar\n" + DTYPE + b"}\x86R", "from a dict; expected bytes"),
        (BUFFER + DTYPE + b"K\x01\x85\x8c\x01AtR",
         "an order that does not exist"),
        (BUFFER + DTYPE + b"K\x01\x85\x8c\x01KK\x01\x85tR",
         "whose axes are in no order"),
        (BUFFER + DTYPE + b"K\x01K\x01\x86\x8c\x01KK\x00K\x00\x86tR", "whose axes are in no order"),
        (b"cnumpy._core.numeric\n_frombuffer\n)R", "from a buffer in an unknown way"),
        (b"cjax._src.array\n_reconstruct_array\n)R", "a JAX array in an unknown way"),
        (b"c_codecs\nencode\n\x8c\x01x\x8c\x05rot13\x86R", "encodes text as rot13; expected"),
        (b"c_codecs\nencode\n\x8c\x02\xc4\x80\x8c\x06latin1\x86R", "as latin1 that is not"),
        (b"cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R", "makes bytes in an unknown way"),
        (b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R", "a bytearray from a int; expected bytes"),
        (b"cbuiltins\nset\nC\x01x\x85R", "makes a set in an unknown way"),
        (b"cbuiltins\nset\n]]a\x85R", "has a key of type list"),
        (b"cbuiltins\ncomplex\n\x8c\x011\x85R", "a complex number in an unknown way"),
        (b"ccollections\nOrderedDict\n]K\x01a\x85R", "from what are not pairs"),
        (b"ccollections\nOrderedDict\n}\x85R", "an OrderedDict in an unknown way"),
        (b"ccollections\ndefaultdict\ncnumpy\ndtype\n\x85R", "a defaultdict in an unknown way"),
        (b"ccollections\nOrderedDict\n)RNb", "sets the state of a dict to a nonetype"),
        (b"cflax.core.frozen_dict\nFrozenDict\n]\x85R", "FrozenDict from a list; expected a dict"),
        (b"cflax.core.frozen_dict\nFrozenDict\n)\x81", "a FrozenDict without its content"),
        (b"cflax.core.frozen_dict\nFrozenDict\n)\x81}b", "to what is no state of one"),
        (b"cflax.core.frozen_dict\nFrozenDict\n}\x85RK\x01K\x01s", "sets an item of a dict"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_array_is_said(tmp_path: Path, value: bytes, message: str) -> None:
    assert message in refusal(entry(value), tmp_path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"cnumpy\ndtype\n}b", "sets the state of a type"),
        (b"cnumpy._core.multiarray\n_reconstruct\n}b", "sets the state of a type"),
        (b"}}b", "sets the state of a dict"),
        (b"cbuiltins\ndict\n)R", "calls dict, which is no way to make an array"),
        (b"cnumpy\nndarray\n)R", "calls numpy.ndarray"),
        (b"\x8c\x01x)R", "calls a str"),
        (b"cnumpy\ndtype\n]R", "calls numpy.dtype"),
        (b"cnumpy\ndtype\n)\x81", "makes a new numpy.dtype"),
        (b"cnumpy\ndtype\n)}\x92", "has opcode NEWOBJ_EX"),
        (b"(inumpy\ndtype\n", "has opcode INST"),
        (b"(cnumpy\ndtype\no", "has opcode OBJ"),
        (b"Pname\n", "has opcode PERSID"),
        (b"NQ", "has opcode BINPERSID"),
        (b"\x82\x01", "has opcode EXT1"),
        (b"\x83\x01\x00", "has opcode EXT2"),
        (b"\x84\x01\x00\x00\x00", "has opcode EXT4"),
        (b"\x97", "has opcode NEXT_BUFFER"),
        (b"C\x01x\x98", "has opcode READONLY_BUFFER"),
        (b"\xff", "is 0xff, which no pickle has there"),
        (b"}K\x01a", "appends to a dict"),
        (b"C\x01xK\x01a", "appends to a bytes"),
        (b"](K\x01K\x02u", "sets an item of a list"),
        (b"cnumpy\ndtype\n(\x8c\x01aK\x01u", "sets an item of a type"),
        (b"}(K\x01u", "a key without a value"),
        (b"}(]K\x02u", "has a key of type list"),
        (b"](K\x01\x90", "adds to a list"),
        (b"\x8f(]\x90", "has a key of type list"),
        (b"h\x05", "recalls a value at byte 7 that it did not keep"),
        (b"Np-1\n", "keeps a value as number -1 in a file of"),
        (b"g-1\n", "recalls a value at byte 9 that it did not keep"),
        (b"0000", "takes a value at byte 8 where there is none"),
        (b"t", "goes back to a mark at byte 6 where there is none"),
        (b"(R", "takes a value at byte 7 where there is none"),
        (b"Ix\n", "a whole number that is none"),
        (b"I07\n", "a whole number that is none"),
        (b"I" + b"9" * 30 + b"\n", "a whole number that is none, or too long"),
        (b"L" + b"9" * 5000 + b"L\n", "end of a line expected"),
        (b"L" + b"9" * 4000 + b"L\n", "a whole number that is none, or too long"),
        (b"F1_0\n", "a number that is none"),
        (b"\x8b\x00\x08\x00\x00" + bytes(2048), "a whole number of 2048 bytes; expected 1024"),
        (b"\x8b\xff\xff\xff\xff", "a whole number of 4294967295 bytes"),
        (b"\x8a\xff\x01", "cut off: 255 bytes expected"),
        (b"T\xff\xff\xff\xffabc", "cut off: 4294967295 bytes expected"),
        (b"(\x94", "takes a value at byte 7 where there is none"),
        (b"\x8f()\x85\x90", "has a key of type tuple"),
        (b"U\x05numpy\x8c\x05dtype\x93", "whose name is no text"),
        (b"C\x05numpy\x8c\x05dtype\x93", "whose name is no text"),
        (b"\x8c\x02\xff\xff", "holds text that is not utf-8"),
        (b"V\\uD8\n", "holds text that is not raw-unicode-escape"),
        (b"Sx\n", "without quotes"),
        (b"S'\\q'\n", "an unknown escape"),
        (b"U\x01\xff", "a string of Python 2 that is not ASCII"),
        (b"\x80\x04K\x01", "says at byte 6 that it is of protocol 4"),
        (b"K\x01K\x02\x93", "whose name is no text"),
    ],
)  # fmt: skip
def test_other_opcodes_are_refused(tmp_path: Path, value: bytes, message: str) -> None:
    assert message in refusal(entry(value), tmp_path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"\x80\x06}.", "is of protocol 6"),
        (b"\x80\x04}.x", "goes on for 1 bytes after its end"),
        (b"\x80\x04}.\x80\x04}.", "goes on for 4 bytes after its end"),
        (b"\x80\x04}}.", "leaves more than one value"),
        (b"\x80\x04(}.", "leaves more than one value"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.", "cut off: a frame of"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.", "cut off: 18446744073709551615 bytes"),
        (b"\x80\x05\x96\x00\x00\x00\x80\x00\x00\x00\x00.", "cut off: 2147483648 bytes expected"),
        (b"\x80\x04B\x00\x00\x00\x80.", "cut off: 2147483648 bytes expected"),
        (b"PK\x03\x04xxxx", "seems to be a zip archive, as torch.save and numpy.savez write"),
        (b"\x89HDF\r\n\x1a\n", "seems to be an HDF5 file"),
        (b"\x93NUMPY\x01\x00", "seems to be an .npy file"),
        (b"\x1f\x8b\x08xxx", "seems to be gzip-compressed"),
        (struct.pack("<Q", 2) + b"{}", "seems to be a safetensors file"),
        (b"<!DOCTYPE html>", "seems to be HTML or XML"),
        (b"hello, world", "recalls a value"),
    ],
)
def test_what_is_no_whole_pickle_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    assert message in refusal(data, tmp_path)


def test_missing_files_folders_and_pipes_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in {
        "none": "does not exist",
        "": "is a folder",
        "pipe": "no regular",
    }.items():
        with pytest.raises(DataError, match=message):
            load_pickle(tmp_path / name)


def pickled(build: Any) -> bytes:
    """Returns what Python's own writer makes of a value that may contain itself."""
    file = io.BytesIO()
    pickle.Pickler(file, 4).dump(build)
    return file.getvalue()


def test_what_contains_itself_is_refused(tmp_path: Path) -> None:
    own: dict[str, Any] = {}
    own["a"] = {"b": own}
    assert "/a/b contains itself" in refusal(pickled(own), tmp_path)
    listed: list[Any] = []
    listed.append((listed,))
    assert "contains itself" in refusal(pickled({"x": listed}), tmp_path)
    frozen = b"cflax.core.frozen_dict\nFrozenDict\n}\x94\x85Rh\x00\x8c\x01ah\x00s0"
    assert "contains itself" in refusal(entry(frozen), tmp_path)


BOMBS = {
    "memo_index": entry(b"Nr\xff\xff\xff\xff"),
    "memo_indexes": entry(b"N" + b"".join(b"r" + struct.pack("<I", i << 20) for i in range(4000))),
    "tuples": entry(b")" + b"\x94h\x00\x86" + b"".join(b"\x94h%c\x86" % i for i in range(1, 60))),
    "lists": entry(b"]\x940" + b"".join(b"]\x94(h%ch%ce0" % (i, i) for i in range(60)) + b"h<"),
    "same_array": entry(array(b"J\x00\x40\x00\x00\x85", data=b"B\x00\x00\x01\x00" + bytes(65536))
                        + b"\x940](" + b"h\x00" * 30_000 + b"e"),
    "same_bytes": START + b"}\x8c\x01xB\x00\x00\x04\x00" + bytes(1 << 18) + b"\x940]("
                  + (b"cnumpy._core.numeric\n_frombuffer\n(h\x00cnumpy\ndtype\n\x8c\x02u1\x85R"
                     b"J\x00\x00\x04\x00\x85\x8c\x01CtR") * 3000 + b"es.",
    "empty_sets": entry(b"](" + b"\x8f" * 200_000 + b"e"),
    "marks": entry(b"(" * 200_000),
    "nested_lists": entry(b"]" * 40_000 + b"a" * 39_999),
    "nested_frozen": entry(b"cflax.core.frozen_dict\nFrozenDict\n\x94}" +
                           b"\x8c\x01ah\x00}" * 5_000 + b"\x85Rs" * 5_000 + b"\x85R"),
}  # fmt: skip


UNFOLDS = "unfolds to far more than its bytes can hold"
MESSAGES = {
    "memo_index": "keeps a value as number 4294967295 in a file of",
    "memo_indexes": "keeps a value as number 1048576 in a file of",
    "tuples": UNFOLDS,
    "lists": UNFOLDS,
    "same_array": UNFOLDS,
    "nested_lists": "nested deeper than 200",
    "nested_frozen": "nested deeper than 200",
    "marks": "takes a value",
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_take_little_memory(tmp_path: Path, name: str) -> None:
    data = BOMBS[name]
    tracemalloc.start()
    try:
        assert MESSAGES.get(name, "makes far more") in refusal(data, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < (40 << 20) + 20 * len(data)
    finally:
        tracemalloc.stop()


def small() -> bytes:
    content = {"params": {"w": np.arange(3, dtype=np.float32), "b": [1.5, "x", (None, 2**70)]}}
    return pickle.dumps(content | {"epoch": np.float64(3), "s": {1}, "e": b"e"}, 4)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = small()
    for end in range(len(data)):
        assert "cut off" in refusal(data[:end], tmp_path) or end == 0


def parses(data: bytes) -> bool:
    try:
        pickles.parse_pickle(data)
    except Refusal:
        return False
    return True


@pytest.mark.parametrize("protocol", [2, 5])
def test_any_changed_byte_gives_data_or_a_refusal(protocol: int) -> None:
    data = pickle.dumps(pickle.loads(small()), protocol)
    changes = [bytes([i]) for i in b"\x00\x01\x7f\x80\xff" + b"bRht(.}0"] + [b"", b"NN"]
    results = {
        parses(data[:at] + new + data[at + 1 :]) for at in range(len(data)) for new in changes
    }
    assert results == {True, False}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([bytes([i]) for i in range(256)] + [BEGUN, DTYPE, STATE, b"K\x01"]))
)
def test_any_bytes_give_data_or_a_refusal(parts: list[bytes]) -> None:
    parses(START + b"".join(parts) + b".")
