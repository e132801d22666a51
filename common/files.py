"""Opening and replacing the files that users name."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.errors import DataError, UserError

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


@contextlib.contextmanager
def replacing(path: StrPath, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a hidden place beside `path` that is renamed to it when the block ends well.

    The block makes a file or a folder there. When it raises, or is killed, `path` is as before;
    what it wrote is removed unless it is killed.

    Raises:
        UserError: `path` exists and `overwrite` is False, or it cannot be written.
    """
    path = Path(path)
    scratch = path.with_name(f".{path.name[:200]}.tmp-{secrets.token_hex(4)}")
    try:
        os.stat(f"{path.parent}/.")  # raises where that is no folder
        _refuse_existing(path, overwrite)
        yield scratch
        _refuse_existing(path, overwrite)
        if path.exists() and (path.is_dir() or scratch.is_dir()):
            old = path.with_name(f".{path.name[:200]}.old-{secrets.token_hex(4)}")
            path.replace(old)
            scratch.replace(path)
            _remove(old)
        else:
            _sync(scratch)
            scratch.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        _remove(scratch)


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if not overwrite and (path.exists() or path.is_symlink()):
        raise UserError(f"{path} exists already; it is not replaced unless --overwrite is given")


def _sync(file: Path) -> None:
    if file.is_file():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
