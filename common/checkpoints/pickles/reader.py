"""Reads pickled checkpoints without running what a pickle may run."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from common.checkpoints.pickles.machine import Machine
from common.checkpoints.pickles.values import Array, Dict, Frozen, OldText, kind
from common.checkpoints.refusal import Refusal
from common.errors import DataError, shown
from common.files import StrPath, open_data_file

MAX_DEPTH = 200
"""Deepest nesting of dicts, lists and tuples."""

FREE_WEIGHT = 1 << 20
WEIGHT_PER_BYTE = 64
NODE = 64
"""What a file may unfold to, in bytes of arrays and text and 64 for each value."""

OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive, as torch.save and numpy.savez write",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "an .npy file",
    b"\x1f\x8b": "gzip-compressed",
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ": "xz-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"7z\xbc\xaf": "a 7z archive",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
    b"<": "HTML or XML, perhaps the page of a failed download",
}


def load_pickle(path: StrPath) -> dict[str, Any]:
    """Reads a pickled checkpoint as plain data; nothing that the file names is imported or called.

    Protocols 0 to 5, by Python 2 and 3. NumPy's arrays and scalars come back as they were written,
    by NumPy 1.x or 2.x, in native byte order and memory of their own; arrays of JAX become NumPy's,
    FrozenDict, OrderedDict and defaultdict become dict, bytearray becomes bytes. An array that
    occurs twice in the file is one object at both places. Dtypes are bool, the integers, floats and
    complex numbers of 8 to 64 bits a part, bfloat16 and the float8 ones; keys are text or whole
    numbers of 64 bits. Other values are numbers, text, bytes, None, lists, tuples, dicts and sets.

    It takes at most the file's size three times over for arrays, and 32 MiB and 16 bytes for each
    byte of the file whatever the file says.

    Raises:
        DataError: The file cannot be read; is cut, damaged or no pickle; asks for any other class
            or function; is nested deeper than 200, contains itself, unfolds beyond all measure; or
            goes on after its end. The message has file and reason in one line.
    """
    with open_data_file(path, "a pickled checkpoint") as file:
        try:
            return parse_pickle(file.read())
        except Refusal as refusal:
            reason = str(refusal)
        except MemoryError:
            reason = "does not fit into memory"
        except RecursionError:
            reason = "nested too deep for the stack as it is"
    raise DataError(f"{os.fspath(path)}: {reason}")


def parse_pickle(data: bytes) -> dict[str, Any]:
    """Reads the bytes of a pickled checkpoint, as `load_pickle` does.

    Raises:
        Refusal: They are none; the message does not name a file.
    """
    if not data:
        raise Refusal("empty file; expected a pickled checkpoint")
    if other := other_format(data):
        raise Refusal(f"seems to be {other}; expected a pickled checkpoint")
    content = _Settling(len(data)).settle(Machine(data).run())
    if not isinstance(content, dict):
        raise Refusal(f"holds a {kind(content)}; expected a dict")
    return content


def other_format(data: bytes) -> str | None:
    """Names the format that a file is of by its first bytes, if it is a known one and no pickle."""
    for start, name in OTHER_FORMATS.items():
        if data.startswith(start):
            return name
    return "a safetensors file" if data[8:9] == b"{" and data[6:8] == bytes(2) else None


class _Settling:
    """Puts arrays, dicts, bytes and text in place of what stands for them, as deep as they lie.

    What occurs at several places is visited and weighed at each, so that a file that unfolds beyond
    all measure is found out by its weight, and one that contains itself by its depth.
    """

    def __init__(self, file_size: int):
        self._weight_left = FREE_WEIGHT + WEIGHT_PER_BYTE * file_size
        self._settled: dict[int, tuple[Any, Any]] = {}  # both, so that the id stays taken
        self._place: list[Any] = []
        self._around: set[int] = set()

    def settle(self, value: Any) -> Any:
        """Returns what `value` stands for.

        Raises:
            Refusal: It is no data, or contains itself, or is nested too deep, or unfolds too far.
        """
        if isinstance(value, Frozen):
            value = self._present(value.content, "a FrozenDict")
        if isinstance(value, dict | list | tuple):
            return self._container(value)
        if isinstance(value, Array):
            value = self._present(value.array, "an array")
        elif isinstance(value, memoryview):
            value = self._once(value, bytes)
        elif isinstance(value, OldText):
            value = value.text()
        self._weigh(value)
        return value

    def _container(self, value: dict | list | tuple) -> Any:
        if id(value) in self._around:
            raise Refusal(f"{self._here()} contains itself")
        if len(self._place) >= MAX_DEPTH:
            raise Refusal(f"nested deeper than {MAX_DEPTH}")
        self._charge(NODE)
        self._around.add(id(value))
        settled = []
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            self._place.append(key)
            settled.append(self.settle(inner))
            self._place.pop()
        self._around.remove(id(value))
        return self._refilled(value, settled)

    def _refilled(self, value: dict | list | tuple, settled: list[Any]) -> Any:
        """Puts what was inside back in, into the same object where that is what it will be."""
        if isinstance(value, tuple):
            return tuple(settled)
        if isinstance(value, list):
            value[:] = settled
            return value
        target = self._once(value, dict) if isinstance(value, Dict) else value
        target.update(zip(value, settled, strict=True))
        return target

    def _once(self, value: Any, make: Callable[[Any], Any]) -> Any:
        if id(value) not in self._settled:
            self._settled[id(value)] = value, make(value)
        return self._settled[id(value)][1]

    def _present(self, content: Any, what: str) -> Any:
        if content is None:
            raise Refusal(f"{self._here()} is {what} without its content")
        return content

    def _weigh(self, value: Any) -> None:
        if isinstance(value, np.ndarray | np.generic):
            self._charge(NODE + value.nbytes)
        elif isinstance(value, str | bytes):
            self._charge(NODE + len(value))
        elif isinstance(value, set | frozenset):
            self._charge(NODE + NODE * len(value))
        elif value is None or isinstance(value, bool | int | float | complex):
            self._charge(NODE)
        else:
            raise Refusal(f"{self._here()} is a {kind(value)}; expected arrays, numbers or strings")

    def _charge(self, weight: int) -> None:
        self._weight_left -= weight
        if self._weight_left < 0:
            raise Refusal("unfolds to far more than its bytes can hold")

    def _here(self) -> str:
        return "".join(f"/{shown(str(key))}" for key in self._place[:20]) or "the whole"
