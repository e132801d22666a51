"""Numbers and text as pickles hold them; protocol 0 writes them in letters."""

import re

from common.checkpoints.refusal import Refusal

ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"\\": b"\\", b"'": b"'", b'"': b'"'}
ESCAPED = re.compile(rb"\\(x[0-9a-fA-F]{2}|.?)", re.DOTALL)
WHOLE = re.compile(rb"[+-]?(0|[1-9][0-9]*)")
REAL = re.compile(rb"[+-]?(inf|nan|[0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?)")


def whole(line: bytes, digits: int) -> int:
    """Returns a whole number of at most so many digits.

    Raises:
        Refusal: It is none.
    """
    if not WHOLE.fullmatch(line) or len(line) > digits + 1:
        raise Refusal("holds a whole number that is none, or too long")
    return int(line)


def real(line: bytes) -> float:
    """Returns a number with a point or without.

    Raises:
        Refusal: It is none.
    """
    if not REAL.fullmatch(line):
        raise Refusal("holds a number that is none")
    return float(line)


def decoded(raw: bytes | memoryview, encoding: str) -> str:
    """Returns text; lone surrogates are let pass, as Python's own reader does.

    Raises:
        Refusal: It is not in that encoding.
    """
    try:
        return str(raw, encoding, "surrogatepass" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError:
        raise Refusal(f"holds text that is not {encoding}") from None


def unquoted(line: bytes) -> bytes:
    """Returns the bytes of a string that Python 2 wrote in quotes.

    Raises:
        Refusal: It has no quotes, or an escape that Python 2 does not write.
    """
    quote = line[:1]
    if len(line) < 2 or quote not in (b"'", b'"') or line[-1:] != quote:
        raise Refusal("holds a string of Python 2 without quotes")
    return ESCAPED.sub(_unescaped, line[1:-1])


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = found[1]
    if code[:1] == b"x" and len(code) == 3:
        return bytes([int(code[1:], 16)])
    if code not in ESCAPES:
        raise Refusal("holds a string of Python 2 with an unknown escape")
    return ESCAPES[code]
