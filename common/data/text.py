"""A text file as one string."""

import os
import re

from common.errors import DataError
from common.files import open_data_file

BOM = b"\xef\xbb\xbf"
MAGIC = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF87a": "a GIF image",
    b"GIF89a": "a GIF image",
    b"%PDF-": "a PDF document",
    b"\x1f\x8b": "gzip-compressed",
    b"BZh91AY&SY": "bzip2-compressed",
    b"\xfd7zXZ": "xz-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "a Parquet file",
    b"\x93NUMPY": "a NumPy array",
    b"\x80\x02": "a Python pickle",
    b"\x80\x03": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}
CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1f\x7f]")
MAX_CONTROL_SHARE = 0.01


def load_corpus(path: str | os.PathLike[str]) -> str:
    """Returns the text of a UTF-8 file; a byte order mark is dropped, newlines are kept as stored.

    Raises:
        DataError: The file is missing or a folder, holds nothing but white space, or is no text.
            The message names the file, and byte offset and line of what is wrong.
    """
    with open_data_file(path, "a UTF-8 text file") as file:
        data = file.read()
    if not data.removeprefix(BOM).strip():
        raise DataError(f"{path}: empty, or nothing but white space; expected UTF-8 text")
    for magic, what in MAGIC.items():
        if data.startswith(magic):
            raise DataError(f"{path}: is {what} by its first bytes; expected UTF-8 text")
    if (position := data.find(b"\0")) >= 0:
        raise DataError(f"{path}: NUL byte at {_place(data, position)}; expected UTF-8 text")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no UTF-8 at {_place(data, error.start)}") from error
    _check_controls(path, data)
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise DataError(f"{path}: nothing but white space; expected UTF-8 text")
    return text


def _check_controls(path: str | os.PathLike[str], data: bytes) -> None:
    count = len(CONTROL.findall(data))
    first = CONTROL.search(data)
    if first and count > MAX_CONTROL_SHARE * len(data):
        raise DataError(
            f"{path}: {count} control characters in {len(data)} bytes, the first at "
            f"{_place(data, first.start())}; expected UTF-8 text"
        )


def _place(data: bytes, position: int) -> str:
    line = data.count(b"\n", 0, position) + 1
    return f"byte {position}, line {line}"
