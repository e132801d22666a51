"""Reads the opcodes of a pickle, protocols 0 to 5, into values of `values`.

Python's own unpickler imports and calls what a file names. This one knows the names of
`symbols` and nothing else; what is not needed to write numbers, text, containers and arrays
is refused by name. What the file declares is checked against the bytes that it has, and what it
makes is charged against a budget of 32 MiB and 16 bytes for each byte of the file.
"""

import pickle
import pickletools
import struct
import sys
from collections.abc import Callable
from typing import Any

from common.checkpoints.pickles.memo import NOTHING, Memo
from common.checkpoints.pickles.symbols import SYMBOLS
from common.checkpoints.pickles.text import decoded, real, unquoted, whole
from common.checkpoints.pickles.values import (
    Array,
    Dict,
    Dtype,
    Frozen,
    OldText,
    Symbol,
    as_element,
    as_key,
    kind,
)
from common.checkpoints.refusal import Refusal
from common.errors import shown

FREE_BYTES = 32 << 20
BYTES_PER_BYTE = 16
"""What may be made of a file: so much in any case, and so much for each byte of it."""

MAX_INTEGER = 1024
"""Largest number of bytes of an integer."""

SHORT = 256
"""Byte strings up to this length are copied, which takes less memory than to refer to the file."""

MAX_LINE = 4096
"""Largest number of bytes of a name or number that is written as text."""

REFERENCE = 8
ITEM = 16
ENTRY = 112
"""Bytes that a place on the stack, in a list, and in a dict or set may take, with room to grow."""


class Machine:
    """Runs one pickle; `run` returns its value.

    Args:
        data: The whole file. Byte strings of the result are views of it.
    """

    def __init__(self, data: bytes):
        self._data = data
        self._view = memoryview(data)
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo = Memo()
        self._budget = FREE_BYTES + BYTES_PER_BYTE * len(data)

    def run(self) -> Any:
        """Returns the value that the pickle leaves.

        Raises:
            Refusal: The file is no whole pickle, or asks for anything but data.
        """
        while (code := self._take(1)[0]) != pickle.STOP[0]:
            if code not in _ACTIONS:
                raise Refusal(_unknown(code, self._at - 1))
            _ACTIONS[code](self)
        value = self._pop()
        if self._stack or self._marks:
            raise Refusal("leaves more than one value")
        if self._at < len(self._data):
            raise Refusal(f"goes on for {len(self._data) - self._at} bytes after its end")
        return value

    # The file.

    def _take(self, count: int) -> memoryview:
        left = len(self._data) - self._at
        if count > left:
            raise Refusal(f"cut off: {count} bytes expected at byte {self._at}, {left} left")
        self._at += count
        return self._view[self._at - count : self._at]

    def _unsigned(self, width: int) -> int:
        return int.from_bytes(self._take(width), "little")

    def _signed(self, width: int) -> int:
        return int.from_bytes(self._take(width), "little", signed=True)

    def _line(self, limit: int | None = MAX_LINE) -> bytes:
        end = self._data.find(b"\n", self._at, None if limit is None else self._at + limit)
        if end < 0:
            raise Refusal(f"cut off: end of a line expected after byte {self._at}")
        return bytes(self._take(end + 1 - self._at)[:-1])

    # Stack, marks and memo.

    def _charge(self, size: int) -> None:
        self._budget -= size
        if self._budget < 0:
            raise Refusal("makes far more of its bytes than data can be")

    def _push(self, value: Any, more: int = 0) -> None:
        self._charge(REFERENCE + sys.getsizeof(value) + more)
        self._stack.append(value)

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise Refusal(f"takes a value at byte {self._at - 1} where there is none")
        return self._stack.pop()

    def _top(self, wanted: type | tuple[type, ...], action: str) -> Any:
        value = self._pop()
        if not isinstance(value, wanted):
            raise Refusal(f"{action} a {kind(value)}")
        self._stack.append(value)
        return value

    def _mark(self) -> None:
        self._charge(2 * ITEM + REFERENCE)
        self._marks.append(len(self._stack))

    def _since_mark(self) -> list[Any]:
        if not self._marks:
            raise Refusal(f"goes back to a mark at byte {self._at - 1} where there is none")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _drop(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()  # as Python's own writer has it for a mark
        else:
            self._pop()

    def _double(self) -> None:
        value = self._pop()
        self._charge(REFERENCE)
        self._stack += [value, value]

    def _remember(self, index: int) -> None:
        if not 0 <= index <= len(self._data):  # writers count from 0 or 1 on
            raise Refusal(f"keeps a value as number {index} in a file of {len(self._data)} bytes")
        value = self._pop()
        self._stack.append(value)
        self._charge(self._memo.keep(index, value))

    def _recall(self, index: int) -> None:
        value = self._memo.get(index)
        if value is NOTHING:
            raise Refusal(f"recalls a value at byte {self._at - 1} that it did not keep")
        self._charge(REFERENCE)
        self._stack.append(value)

    def _line_index(self) -> int:
        return whole(self._line(), 20)

    # Numbers and text.

    def _push_integer(self, width: int) -> None:
        if width > MAX_INTEGER:
            raise Refusal(f"holds a whole number of {width} bytes; expected {MAX_INTEGER} at most")
        self._push(self._signed(width))

    def _push_line_integer(self) -> None:
        line = self._line()
        self._push(line == b"01" if line in (b"00", b"01") else whole(line, 20))

    def _push_line_long(self) -> None:
        self._push(whole(self._line().removesuffix(b"L"), 2 * MAX_INTEGER))

    def _push_line_float(self) -> None:
        self._push(real(self._line()))

    def _push_float(self) -> None:
        self._push(struct.unpack(">d", self._take(8))[0])

    def _push_text(self, width: int) -> None:
        self._push(decoded(self._take(self._unsigned(width)), "utf-8"))

    def _push_line_text(self) -> None:
        self._push(decoded(self._line(None), "raw-unicode-escape"))

    def _push_bytes(self, width: int) -> None:
        data = self._take(self._unsigned(width))
        self._push(data if len(data) > SHORT else bytes(data))

    def _push_old_text(self, width: int) -> None:
        data = self._take(self._unsigned(width))
        self._push(OldText(bytes(data) if len(data) < SHORT else data), SHORT)

    def _push_line_old_text(self) -> None:
        raw = unquoted(self._line(None))
        self._push(OldText(raw), len(raw))

    # Containers.

    def _push_tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(values)))

    def _push_dict(self) -> None:
        pairs = self._since_mark()
        self._push({})
        self._set_items(pairs)

    def _append(self, values: list[Any]) -> None:
        target = self._top(list, "appends to")
        self._charge(ITEM * len(values))
        target.extend(values)

    def _set_items(self, pairs: list[Any]) -> None:
        target = self._top(dict, "sets an item of")
        if len(pairs) % 2:
            raise Refusal("gives a dict a key without a value")
        self._charge(ENTRY * (len(pairs) // 2))
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[as_key(key)] = value

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _add_items(self) -> None:
        values = self._since_mark()
        target = self._top(set, "adds to")
        self._charge(ENTRY * len(values))
        target.update(map(as_element, values))

    def _push_frozenset(self) -> None:
        values = self._since_mark()
        self._push(frozenset(map(as_element, values)))

    # Names and what is made by them.

    def _push_symbol(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refusal("asks for something whose name is no text")
        if (module, name) not in SYMBOLS:
            raise Refusal(
                f"asks for {shown(f'{module}.{name}')}; expected NumPy arrays, numbers and strings "
                "in dicts, and no other classes"
            )
        self._push(SYMBOLS[module, name])

    def _push_line_symbol(self) -> None:
        module, name = self._line(), self._line()
        self._push_symbol(decoded(module, "utf-8"), decoded(name, "utf-8"))

    def _push_stack_symbol(self) -> None:
        name, module = self._pop(), self._pop()
        self._push_symbol(module, name)

    def _call(self) -> None:
        args, called = self._pop(), self._pop()
        if not isinstance(called, Symbol) or called.call is None or not isinstance(args, tuple):
            name = called.name if isinstance(called, Symbol) else f"a {kind(called)}"
            raise Refusal(f"calls {name}, which is no way to make an array")
        made = called.call(args)
        self._push(made, _size(made))

    def _new(self) -> None:
        args, made = self._pop(), self._pop()
        if not isinstance(made, Symbol) or made.new is None or args != ():
            raise Refusal(f"makes a new {made.name if isinstance(made, Symbol) else kind(made)}")
        self._push(made.new())

    def _build(self) -> None:
        state = self._pop()
        target = self._top((Array, Dict, Dtype, Frozen), "sets the state of")
        target.build(state)
        self._charge(_size(target))

    def _start(self) -> None:
        version = self._unsigned(1)
        if self._at != 2 or version > pickle.HIGHEST_PROTOCOL:
            raise Refusal(f"says at byte {self._at - 2} that it is of protocol {version}")

    def _frame(self) -> None:
        size, left = self._unsigned(8), len(self._data) - self._at
        if size > left:
            raise Refusal(f"cut off: a frame of {size} bytes at byte {self._at}, {left} left")


def _size(made: Any) -> int:
    """Returns about how many bytes lie behind a value beside its own."""
    if isinstance(made, Array) and made.array is not None:
        return made.array.nbytes + ENTRY
    if isinstance(made, memoryview):
        return made.nbytes
    if isinstance(made, Frozen):
        return ENTRY
    return 0


def _unknown(code: int, at: int) -> str:
    for known in pickletools.opcodes:
        if known.code == chr(code):
            return f"has opcode {known.name} at byte {at}, which data has no need of"
    return f"byte {at} is {code:#04x}, which no pickle has there: damaged, or no pickle"


def _pushes(value: Any) -> Callable[[Machine], None]:
    return lambda machine: machine._push(value)


_ACTIONS: dict[int, Callable[[Machine], Any]] = {
    code[0]: action
    for code, action in {
        pickle.PROTO: Machine._start,
        pickle.FRAME: Machine._frame,
        pickle.MARK: Machine._mark,
        pickle.POP: Machine._drop,
        pickle.POP_MARK: Machine._since_mark,
        pickle.DUP: Machine._double,
        pickle.NONE: _pushes(None),
        pickle.NEWTRUE: _pushes(True),
        pickle.NEWFALSE: _pushes(False),
        pickle.INT: Machine._push_line_integer,
        pickle.LONG: Machine._push_line_long,
        pickle.BININT: lambda m: m._push_integer(4),
        pickle.BININT1: lambda m: m._push(m._unsigned(1)),
        pickle.BININT2: lambda m: m._push(m._unsigned(2)),
        pickle.LONG1: lambda m: m._push_integer(m._unsigned(1)),
        pickle.LONG4: lambda m: m._push_integer(m._unsigned(4)),
        pickle.FLOAT: Machine._push_line_float,
        pickle.BINFLOAT: Machine._push_float,
        pickle.UNICODE: Machine._push_line_text,
        pickle.SHORT_BINUNICODE: lambda m: m._push_text(1),
        pickle.BINUNICODE: lambda m: m._push_text(4),
        pickle.BINUNICODE8: lambda m: m._push_text(8),
        pickle.STRING: Machine._push_line_old_text,
        pickle.SHORT_BINSTRING: lambda m: m._push_old_text(1),
        pickle.BINSTRING: lambda m: m._push_old_text(4),
        pickle.SHORT_BINBYTES: lambda m: m._push_bytes(1),
        pickle.BINBYTES: lambda m: m._push_bytes(4),
        pickle.BINBYTES8: lambda m: m._push_bytes(8),
        pickle.BYTEARRAY8: lambda m: m._push_bytes(8),
        pickle.EMPTY_TUPLE: _pushes(()),
        pickle.TUPLE: lambda m: m._push(tuple(m._since_mark())),
        pickle.TUPLE1: lambda m: m._push_tuple(1),
        pickle.TUPLE2: lambda m: m._push_tuple(2),
        pickle.TUPLE3: lambda m: m._push_tuple(3),
        pickle.EMPTY_LIST: lambda m: m._push([]),
        pickle.LIST: lambda m: m._push(m._since_mark()),
        pickle.APPEND: lambda m: m._append([m._pop()]),
        pickle.APPENDS: lambda m: m._append(m._since_mark()),
        pickle.EMPTY_DICT: lambda m: m._push({}),
        pickle.DICT: Machine._push_dict,
        pickle.SETITEM: Machine._set_item,
        pickle.SETITEMS: lambda m: m._set_items(m._since_mark()),
        pickle.EMPTY_SET: lambda m: m._push(set()),
        pickle.ADDITEMS: Machine._add_items,
        pickle.FROZENSET: Machine._push_frozenset,
        pickle.PUT: lambda m: m._remember(m._line_index()),
        pickle.BINPUT: lambda m: m._remember(m._unsigned(1)),
        pickle.LONG_BINPUT: lambda m: m._remember(m._unsigned(4)),
        pickle.MEMOIZE: lambda m: m._remember(len(m._memo)),
        pickle.GET: lambda m: m._recall(m._line_index()),
        pickle.BINGET: lambda m: m._recall(m._unsigned(1)),
        pickle.LONG_BINGET: lambda m: m._recall(m._unsigned(4)),
        pickle.GLOBAL: Machine._push_line_symbol,
        pickle.STACK_GLOBAL: Machine._push_stack_symbol,
        pickle.REDUCE: Machine._call,
        pickle.NEWOBJ: Machine._new,
        pickle.BUILD: Machine._build,
    }.items()
}
"""What is done at each opcode; the rest is refused."""
