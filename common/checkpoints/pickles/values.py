"""The values that a pickle of arrays is put together from.

They are of this file, whatever class the pickle was written from. An array is made from bytes whose
number is that which its shape and dtype ask for; anything else is refused before memory is taken.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from common.checkpoints.refusal import Refusal

MAX_RANK = 32
MAX_BYTES = 2**63 - 1

PLAIN_DTYPES = {
    np.dtype(code).str[1:]: np.dtype(code)
    for code in (
        "b1",
        "i1",
        "i2",
        "i4",
        "i8",
        "u1",
        "u2",
        "u4",
        "u8",
        "f2",
        "f4",
        "f8",
        "c8",
        "c16",
    )
}
SHORT_FLOATS = ("bfloat16", *(name for name in dir(ml_dtypes) if name.startswith("float8_")))
SHORT_FLOAT_FLAGS = 0x70  # how NumPy is to handle them: NEEDS_PYAPI, USE_GETITEM, USE_SETITEM


@dataclass(frozen=True)
class Symbol:
    """Stands for a permitted name.

    Attributes:
        name: The name, for messages.
        call: What the pickle may call with a tuple of arguments, if anything.
        new: Makes an empty object, for classes that are written that way.
    """

    name: str
    call: Callable[[tuple[Any, ...]], Any] | None = None
    new: Callable[[], Any] | None = None


class OldText:
    """Stands for a string of Python 2, which is text or bytes: use tells."""

    __slots__ = ("_text", "raw")

    def __init__(self, raw: bytes | memoryview):
        self.raw = raw
        self._text: str | None = None

    def text(self) -> str:
        """Returns it as text, which must be ASCII."""
        if self._text is None:
            try:
                self._text = str(self.raw, "ascii")
            except UnicodeDecodeError:
                raise Refusal("holds a string of Python 2 that is not ASCII text") from None
        return self._text


class Dict(dict):
    """Stands for `OrderedDict` and `defaultdict`; attributes of theirs are dropped."""

    def build(self, state: Any) -> None:
        """Takes the attributes of an `OrderedDict`."""
        if not isinstance(state, dict):
            raise Refusal(f"sets the state of a dict to a {kind(state)}")


class Frozen:
    """Stands for Flax' `FrozenDict`."""

    __slots__ = ("content",)

    def __init__(self, content: dict | None = None):
        self.content = content

    def build(self, state: Any) -> None:
        """Takes the content from the slots, as old versions of Flax wrote them."""
        slots = state[1] if isinstance(state, tuple) and len(state) == 2 else state
        if self.content is not None or not isinstance(slots, dict) or "_dict" not in slots:
            raise Refusal("sets a FrozenDict to what is no state of one")
        self.content = dict_in(slots["_dict"])


class Dtype:
    """Stands for a `numpy.dtype`, of plain numbers alone."""

    __slots__ = ("dtype", "is_built", "is_swapped")

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype
        self.is_swapped = False
        self.is_built = False

    def build(self, state: Any) -> None:
        """Takes the byte order from a state that says nothing else."""
        if self.is_built or not isinstance(state, tuple) or len(state) not in (8, 9):
            raise Refusal(f"sets dtype {self.dtype} to what is no state of it")
        version, order, *structure, size, alignment, flags = state[:8]
        known_flags = SHORT_FLOAT_FLAGS if self.dtype.name in SHORT_FLOATS else 0
        if (
            version not in (3, 4)
            or any(part is not None for part in structure)
            or not all(type(number) is int for number in (version, size, alignment, flags))
            or size not in (-1, self.dtype.itemsize)
            or not -1 <= alignment <= 16
            or flags & ~known_flags
        ):
            raise Refusal(f"dtype {self.dtype} has a state that does not belong to it")
        self.is_swapped = self._order(order) == ">"
        self.is_built = True

    def _order(self, order: Any) -> str:
        order = as_text(order)
        if order not in ("<", ">") and (order != "|" or self.dtype.itemsize > 1):
            raise Refusal(f"dtype {self.dtype} has a byte order that does not exist")
        return order


class Array:
    """Stands for a `numpy.ndarray`; `array` is None until its state has come."""

    __slots__ = ("array",)

    def __init__(self, array: np.ndarray | None = None):
        self.array = array

    def build(self, state: Any) -> None:
        """Takes version, shape, dtype, whether it is Fortran's order, and data."""
        if self.array is not None:
            raise Refusal("sets the state of an array twice")
        if not isinstance(state, tuple) or len(state) != 5 or state[0] != 1:
            raise Refusal("sets an array to what is no state of one")
        _, shape, dtype, is_fortran, data = state
        if type(is_fortran) not in (bool, int) or is_fortran not in (0, 1):
            raise Refusal("holds an array in an order that does not exist")
        self.array = make_array(dtype, shape, data, "F" if is_fortran else "C")


def make_array(dtype: Any, shape: Any, data: Any, order: str) -> np.ndarray:
    """Copies the bytes of an array, once their number is known to be right."""
    if not isinstance(dtype, Dtype):
        raise Refusal(f"holds an array whose dtype is a {kind(dtype)}")
    _check_shape(shape, dtype.dtype.itemsize)
    raw = bytes_in(data, "an array")
    count, name = math.prod(shape), dtype.dtype.name
    if count * dtype.dtype.itemsize != len(raw):
        raise Refusal(
            f"holds an array {name}{list(shape)} of {len(raw)} bytes; "
            f"expected {count * dtype.dtype.itemsize}"
        )
    flat = np.empty(count, dtype.dtype)
    if raw:
        flat.view(np.uint8)[:] = np.frombuffer(raw, np.uint8)
    if name == "bool" and (flat.view(np.uint8) > 1).any():
        raise Refusal("holds an array of bools that has other numbers than 0 and 1")
    width = dtype.dtype.itemsize // (2 if dtype.dtype.kind == "c" else 1)
    if dtype.is_swapped and width > 1:
        flat.view(f"u{width}").byteswap(inplace=True)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def _check_shape(shape: Any, itemsize: int) -> None:
    if not isinstance(shape, tuple) or len(shape) > MAX_RANK:
        raise Refusal(f"holds an array whose shape is not that of {MAX_RANK} axes or fewer")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise Refusal("holds an array whose shape is not of whole numbers from 0 on")
    if math.prod(length for length in shape if length) * itemsize > MAX_BYTES:
        raise Refusal("holds an array that is too large for any machine")


def bytes_in(value: Any, what: str) -> bytes | memoryview:
    """Returns the bytes that `what` is made from.

    Raises:
        Refusal: The value is anything but bytes.
    """
    if isinstance(value, OldText):
        value = value.raw
    if not isinstance(value, bytes | memoryview):
        raise Refusal(f"makes {what} from a {kind(value)}; expected bytes")
    return value


def as_text(value: Any) -> str:
    """Returns a short word, however it was written, or '' for what is none."""
    if isinstance(value, OldText):
        return value.text()
    if isinstance(value, bytes | memoryview):
        return bytes(value[:8]).decode("latin1")
    return value if isinstance(value, str) else ""


def dict_in(value: Any) -> dict:
    """Returns the dict that a FrozenDict is made from.

    Raises:
        Refusal: The value is anything but a dict.
    """
    content = value.content if isinstance(value, Frozen) else value
    if not isinstance(content, dict):
        raise Refusal(f"makes a FrozenDict from a {kind(value)}; expected a dict")
    return content


def as_key(value: Any) -> str | int:
    """Returns a key of a dict: text, or a whole number of 64 bits.

    Raises:
        Refusal: It is anything else.
    """
    if isinstance(value, OldText):
        return value.text()
    if type(value) is str or type(value) is int and -(2**63) <= value < 2**64:
        return value
    raise Refusal(f"has a key of type {kind(value)}; expected text or a whole number of 64 bits")


def as_element(value: Any) -> Any:
    """Returns an element of a set: what a key may be, or short bytes, a float, a bool or None.

    Raises:
        Refusal: It is anything else.
    """
    if value is None or type(value) in (bool, float, bytes):
        return value
    return as_key(value)


_SHOWN_KINDS = {memoryview: "bytes", OldText: "str", Array: "array", Dict: "dict", Frozen: "dict"}


def kind(value: Any) -> str:
    """Names the type of a value as the pickle's writer would."""
    if isinstance(value, Symbol):
        return "type"
    return _SHOWN_KINDS.get(type(value), type(value).__name__.lower())
