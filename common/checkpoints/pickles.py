"""Reads pickled checkpoints without running what a pickle may run.

A pickle is a program that calls what it names. Here names lead to stand-ins alone, which take the
description of an array and no more: NumPy's arrays and scalars of numbers as NumPy 1.x and 2.x
write them by the protocols 2 to 5, and Flax' FrozenDict, which becomes a dict.
"""

import os
import pickle
from typing import Any

import numpy as np

from common.errors import DataError


def read_pickle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a dict of dicts, sequences, arrays, numbers and strings.

    Args:
        path: the file.

    Raises:
        DataError: the file cannot be read, is no whole pickle, or holds or asks for anything else.
    """
    name = os.fspath(path)
    try:
        with open(path, "rb") as file:
            content = _unwrapped(_ArrayUnpickler(file).load(), "")
    except _Refused as refusal:
        raise DataError(f"{name}: {refusal}") from None
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a broken pickle raises nearly anything
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{name}: not a whole pickle of arrays ({reason})") from error
    if not isinstance(content, dict):
        raise DataError(f"{name}: holds a {type(content).__name__}; expected a dict")
    return content


class _Refused(Exception):
    """Something that a checkpoint of arrays has no need of."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _STAND_INS:
            raise _Refused(
                f"asks for {module}.{name}; expected NumPy arrays, numbers and strings in dicts, "
                "and no other classes"
            )
        return _STAND_INS[module, name]


class _Dtype:
    """Stands for `numpy.dtype`, of numbers alone."""

    def __init__(self, code: str, *_: object) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in "biufc":
            raise _Refused(f"holds an array of dtype {self.dtype}; expected numbers")

    def __setstate__(self, state: tuple) -> None:
        order = state[1]
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for `numpy.ndarray`: shape and data come with its state."""

    def __init__(self, *_: object) -> None:
        self.array: np.ndarray = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        *_, shape, stored, is_fortran, data = state
        flat = np.frombuffer(data, stored.dtype)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


def _from_buffer(data: Any, stored: _Dtype, shape: Any, order: Any, axes: Any = None) -> _Array:
    """Stands for NumPy's `_frombuffer`, by which protocol 5 writes arrays."""
    made, flat = _Array(), np.frombuffer(bytes(data), stored.dtype)
    if axes is None:
        made.array = flat.reshape(shape, order=order)
    else:  # NumPy's order 'K': the shape as it lies in memory, and the way back
        made.array = flat.reshape(shape).transpose(axes)
    return made


def _scalar(stored: _Dtype, data: bytes) -> _Array:
    """Stands for NumPy's `scalar`."""
    made = _Array()
    made.array = np.frombuffer(data, stored.dtype).reshape(())
    return made


def _encoded(text: str, encoding: str) -> bytes:
    """Stands for `_codecs.encode`, by which protocol 2 writes bytes."""
    if encoding != "latin1":
        raise _Refused(f"encodes text as {encoding}; expected latin1")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stands for `bytes()`, by which protocol 2 writes none."""
    return b""


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): _no_bytes,
    ("flax.core.frozen_dict", "FrozenDict"): dict,
}
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS |= {
        (f"{_core}.multiarray", "_reconstruct"): _Array,
        (f"{_core}.multiarray", "scalar"): _scalar,
        (f"{_core}.numeric", "_frombuffer"): _from_buffer,
    }


def _unwrapped(tree: Any, place: str) -> Any:
    """Returns the tree with arrays, of native byte order, in place of their stand-ins."""
    if isinstance(tree, dict):
        return {key: _unwrapped(value, f"{place}/{key}") for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_unwrapped(value, f"{place}/{i}") for i, value in enumerate(tree))
    if isinstance(tree, _Array):
        return tree.array.astype(tree.array.dtype.newbyteorder("="))
    if tree is None or isinstance(tree, (str, int, float, bool)):
        return tree
    raise _Refused(f"{place} is a {type(tree).__name__}; expected arrays, numbers or strings")
