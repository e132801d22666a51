"""One process at a time in the folder of a run."""

import datetime
import errno
import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from common.errors import UserError

LOCK_FILE = ".lock"
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class RunLock:
    """Holds the folder of a run while it is entered, against every other process.

    The lock is the kernel's (`flock`) on the file '.lock', which also tells who holds it. It ends
    with the process, however that ends, so what a killed process leaves behind is no obstacle; the
    file stays. Network file systems: on NFS of Linux the lock holds between machines; where the
    file system has no locks, or keeps them to one machine, nothing is held, and `held` is False in
    the first of these cases.

    Args:
        folder: Folder of the run; made if it is missing.

    Attributes:
        held: Whether the folder is held.
    """

    def __init__(self, folder: Path):
        self._file = folder / LOCK_FILE
        self._descriptor: int | None = None
        self.held = False

    def __enter__(self) -> Self:
        """Takes the lock.

        Raises:
            UserError: Another process holds it, or the folder cannot be written.
        """
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o644)
            self.held = _take(self._descriptor, self._file)
            if self.held:
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, _holder(), 0)
        except OSError as error:
            self._release()
            raise UserError(
                f"cannot write to workdir {self._file.parent}: {error.strerror}"
            ) from None
        except UserError:
            self._release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._release()

    def _release(self) -> None:
        self.held = False
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def require_free(folder: Path) -> None:
    """Checks that no process holds the folder of a run now, and changes nothing there.

    Raises:
        UserError: One does.
    """
    file = folder / LOCK_FILE
    try:
        descriptor = os.open(file, os.O_RDWR)
    except OSError:
        return  # no lock, or not a folder to write in, which is found out later
    try:
        _take(descriptor, file)
    finally:
        os.close(descriptor)


def _take(descriptor: int, file: Path) -> bool:
    """Takes the lock of an open file; False where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"workdir {file.parent} is in use by {_read_holder(file)}") from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return False
    return True


def _holder() -> bytes:
    start = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "start": start}).encode()


def _read_holder(file: Path) -> str:
    """Names the process that holds the lock, as far as it has said who it is."""
    try:
        holder = json.loads(file.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['start']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
