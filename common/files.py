"""Opening the files that users name."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.errors import DataError

StrPath = str | os.PathLike[str]


@contextlib.contextmanager
def open_data_file(path: StrPath, expected: str) -> Iterator[BinaryIO]:
    """Opens a regular file for reading; pipes and devices are refused, as reading them may hang.

    Raises:
        DataError: There is no such file, or it cannot be opened or read.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise DataError(f"{path}: does not exist; expected {expected}")
        if not path.is_file():
            what = "a folder" if path.is_dir() else "no regular file"
            raise DataError(f"{path}: is {what}; expected {expected}")
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
