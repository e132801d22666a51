"""The content of a checkpoint, taken apart into arrays by name and a text that tells the rest.

Orbax and safetensors keep arrays of numbers. What a pickle can hold besides is kept as JSON, exact
to the bit: None, bools, numbers and text as they are, lists as lists, and anything else as an
object of one entry whose name says what it is.
"""

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import ml_dtypes
import numpy as np

from common.array_types import PyTree
from common.checkpoints.refusal import Refusal
from common.errors import shown

Places = dict[tuple[str, ...], np.ndarray]

MAX_KEY = 100
"""Longest key, in bytes, that is part of an array's name as it stands."""


def take_apart(content: Any, separator: str = "/") -> tuple[dict[str, np.ndarray], str]:
    """Returns the arrays by name, and the text by which `put_together` makes the content again.

    Names are the keys on the way, in letters that any file may be named with, joined by
    `separator`. Arrays without elements are in the text alone, since Orbax cannot store them.

    Raises:
        TypeError: There is a value that no checkpoint holds.
        ValueError: Two arrays have the same name, since a key has the separator in it.
    """
    places: dict[tuple[str, ...], np.ndarray] = {}
    encoded = _encoded(content, (), places, separator)
    arrays = {separator.join(place): array for place, array in places.items()}
    if len(arrays) < len(places):
        raise ValueError(f"keys with {separator!r} in them give two arrays the same name")
    return arrays, json.dumps(encoded, allow_nan=False)


def put_together(arrays: Mapping[str, np.ndarray], text: str) -> Any:
    """Returns the content that `take_apart` made these arrays and this text of.

    Raises:
        Refusal: The text is no such text, or an array is missing or of another type.
    """
    try:
        return _decoded(json.loads(text), arrays)
    except (ValueError, TypeError, KeyError, AttributeError, struct.error, RecursionError):
        raise Refusal("its description of the content is damaged") from None


def _encoded(value: Any, place: tuple[str, ...], places: Places, separator: str) -> Any:
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if isinstance(value, np.ndarray):
        return _encoded_array(value, place, places, separator)
    if isinstance(value, np.generic):
        return {"scalar": [value.dtype.name, _base64(value.tobytes())]}
    if isinstance(value, float):
        return value if np.isfinite(value) else {"float": struct.pack(">d", value).hex()}
    if isinstance(value, complex):
        return {"complex": struct.pack(">dd", value.real, value.imag).hex()}
    if isinstance(value, bytes):
        return {"bytes": _base64(value)}
    if isinstance(value, dict):
        items: list[Any] = []
        for key, inner in value.items():
            items += [key, _encoded(inner, (*place, _safe(key)), places, separator)]
        return {"dict": items}
    if isinstance(value, list | tuple | set | frozenset):
        inner = [
            _encoded(one, (*place, str(i)), places, separator)
            for i, one in enumerate(_in_order(value))
        ]
        return inner if isinstance(value, list) else {type(value).__name__: inner}
    raise TypeError(f"{'/'.join(place)} is a {type(value).__name__}, which no checkpoint holds")


def _encoded_array(
    array: np.ndarray, place: tuple[str, ...], places: Places, separator: str
) -> dict[str, Any]:
    described = [array.dtype.name, list(array.shape)]
    if not array.size:
        return {"empty": described}
    places[place] = array
    return {"array": [separator.join(place), *described]}


def _in_order(values: Any) -> Any:
    return values if isinstance(values, list | tuple) else sorted(values, key=repr)


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _safe(key: str | int) -> str:
    """Returns letters for a key, different ones for any two keys of a dict."""
    if isinstance(key, int):
        return f"%i{key}"
    letters = quote(key, safe=" ", errors="surrogatepass").replace("~", "%7E")
    if letters in ("", ".", ".."):
        return f"%e{len(letters)}"
    if len(letters) > MAX_KEY:
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        return f"%h{digest}"
    return letters


def _decoded(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_decoded(inner, arrays) for inner in value]
    if not isinstance(value, dict):
        return value
    ((name, held),) = value.items()
    if name == "dict":
        values = [_decoded(inner, arrays) for inner in held[1::2]]
        return dict(zip(held[::2], values, strict=True))
    if name == "array":
        return _found(arrays, *held)
    if name in _SEQUENCES:
        return _SEQUENCES[name](_decoded(inner, arrays) for inner in held)
    return _SINGLE[name](held)


def _found(arrays: Mapping[str, np.ndarray], name: str, dtype: str, shape: list[int]) -> np.ndarray:
    array = arrays.get(name)
    if array is None:
        raise Refusal(f"{shown(name)} is missing")
    if array.dtype != _dtype(dtype) or list(array.shape) != shape:
        raise Refusal(f"{shown(name)} is {array.dtype}{list(array.shape)}, expected {dtype}{shape}")
    return array


def _dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name) if hasattr(ml_dtypes, name) else name)


def _scalar(held: list[str]) -> np.generic:
    dtype, raw = held
    return np.frombuffer(base64.b64decode(raw), _dtype(dtype))[0]


_SEQUENCES: dict[str, Callable[[Any], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}
_SINGLE: dict[str, Callable[[Any], Any]] = {
    "float": lambda held: struct.unpack(">d", bytes.fromhex(held))[0],
    "complex": lambda held: complex(*struct.unpack(">dd", bytes.fromhex(held))),
    "bytes": base64.b64decode,
    "scalar": _scalar,
    "empty": lambda held: np.zeros(held[1], _dtype(held[0])),
}


def nested(arrays: Mapping[str, np.ndarray], separator: str = "/") -> dict[str, PyTree]:
    """Returns arrays by name as a dict of dicts, cut at the separators.

    Raises:
        Refusal: One array's place is inside another.
    """
    tree: dict[str, PyTree] = {}
    for name, array in arrays.items():
        *outer, last = name.split(separator)
        inner = tree
        for key in outer:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise Refusal(f"{shown(name)} lies inside another array")
        if last in inner:
            raise Refusal(f"{shown(name)} holds another array")
        inner[last] = array
    return tree
