"""JAX's persistent compilation cache in the user's cache folder, safe with kills and company.

JAX writes an entry in place: killed meanwhile it leaves a torn one for good, and another process
may read half of one. So every process has a folder of its own, which begins as hard links to all
entries, and gives back the new ones that are whole, each in one move.

Compiled code is of one processor, and XLA divides work among as many threads as there are cores,
which decides the last digits. So entries are kept apart by processor and number of cores.
"""

import atexit
import contextlib
import fcntl
import functools
import hashlib
import importlib
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import jax

from common.train.environment import available_cores

VARIABLE = "JAX_COMPILATION_CACHE_DIR"
LIMIT = 2 * 10**9
"""Bytes of entries that are kept, the newest first."""

_ZSTANDARD = b"\x28\xb5\x2f\xfd"
"""First bytes of an entry that JAX has compressed by zstandard; otherwise it takes zlib."""


def use_cache() -> "CompilationCache | None":
    """Lets this process read compiled programs from the user's cache, and add to it at its end.

    Call it before anything is compiled. The cache is `cssm-lab/jax` under $XDG_CACHE_HOME or
    ~/.cache. Where $JAX_COMPILATION_CACHE_DIR names a folder, JAX uses that itself, in its own way;
    where that variable is empty there is no cache.

    Returns:
        The cache, or None where there is none of this module, also where the file system refuses.
    """
    config: Any = jax.config
    if VARIABLE in os.environ or config.jax_compilation_cache_dir is not None:
        return None
    try:
        cache = CompilationCache(user_folder() / machine())
    except OSError:
        return None
    settings: dict[str, Any] = {
        "jax_compilation_cache_dir": str(cache.own),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_enable_xla_caches": "none",  # their path would be part of the key
    }
    for name, value in settings.items():
        config.update(name, value)
    atexit.register(cache.close)
    return cache


def user_folder() -> Path:
    """Returns the folder of all caches of the user's."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "cssm-lab" / "jax"


@functools.cache
def machine() -> str:
    """Returns 16 hex digits for what compiled code depends on: the processor and its cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    kinds = sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))})
    cores = f"{available_cores()} {os.environ.get('NPROC', '')}"
    return hashlib.sha256("\n".join([*kinds, cores]).encode()).hexdigest()[:16]


class CompilationCache:
    """A process's part of a cache of compiled programs.

    Args:
        root: folder that processes of the same kind of machine share; made if it is missing.

    Attributes:
        entries: folder of the whole entries.
        own: folder of this process, for JAX to read and write.
    """

    def __init__(self, root: Path):
        self.entries, processes = root / "entries", root / "processes"
        for folder in (self.entries, processes):
            folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(processes)
        made = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=root))
        self._lock = os.open(made / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        with contextlib.suppress(OSError):  # no locks there: see _remove_abandoned
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.own = made.rename(processes / made.name)  # held before others see it
        for entry in self.entries.glob("*-cache"):
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                os.link(entry, self.own / entry.name)

    def share(self) -> None:
        """Gives the new entries that are whole to the processes that start from now on."""
        for file in self.own.glob("*-cache"):
            with contextlib.suppress(OSError):
                if file.stat().st_nlink == 1 and is_whole(file.read_bytes()):
                    with file.open("rb") as stream:
                        os.fsync(stream.fileno())
                    os.link(file, self.entries / file.name)
        _keep_newest(self.entries)

    def close(self) -> None:
        """Shares what is new, and removes the process's folder."""
        self.share()
        shutil.rmtree(self.own, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


def is_whole(entry: bytes) -> bool:
    """Tells whether the compressed content of an entry is all there."""
    try:
        if not entry.startswith(_ZSTANDARD):
            zlib.decompress(entry)
        else:
            importlib.import_module("zstandard").ZstdDecompressor().decompress(entry)
    except Exception:  # of zlib or zstandard; what cannot be checked is not kept
        return False
    return True


def _remove_abandoned(processes: Path) -> None:
    """Removes the folders of processes that are no more, where the file system has locks."""
    for folder in processes.iterdir():
        try:
            lock = os.open(folder / ".lock", os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(lock)


def _keep_newest(entries: Path) -> None:
    """Removes the oldest entries beyond `LIMIT`."""
    total = 0
    found = [(file, file.stat()) for file in entries.glob("*-cache") if file.exists()]
    for file, status in sorted(found, key=lambda pair: -pair[1].st_mtime):
        total += status.st_size
        if total > LIMIT:
            file.unlink(missing_ok=True)
