"""Runs the project where most of its dependencies are missing.

What a training run needs of them is little: annotations (jaxtyping), compiled loops (numba) and
threads that read ahead (grain). `allow_missing` stands in for these where they are not installed,
and lets modules import the others, which must then not be used: the log for TensorBoard is not
written. Without numba images are the same and take hundreds of times as long to draw.

Importing `experiments.gpu` calls it, before any other module of the project is imported.
"""

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

HOLLOW = (
    "PIL",
    "google_crc32c",
    "llvmlite",
    "matplotlib",
    "safetensors",
    "tensorboardX",
    "tokenizers",
)
"""Packages that modules import and a training run does not need."""


def allow_missing() -> list[str]:
    """Lets imports of missing dependencies succeed; returns the names of those that are missing."""
    finder = _StandIns()
    missing = [name for name in _names() if importlib.util.find_spec(name) is None]
    sys.meta_path.append(finder)  # comes after those that find what is installed
    return missing


def without_native_code() -> contextlib.AbstractContextManager[None]:
    """Returns a context in which no scan is generated as native code where that cannot be."""
    from common.kernels.scan_choice import native_code

    installed = not isinstance(sys.modules.get("llvmlite"), _Hollow)
    return contextlib.nullcontext() if installed else native_code(allowed=False)


class _Hollow(types.ModuleType):
    """A module, class, function or object of a package that is not there."""

    def __init__(self, name: str = "missing", *arguments: Any, **options: Any):
        super().__init__(str(name))
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Hollow(f"{self.__name__}.{name}")

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _Hollow(f"{self.__name__}()")

    def __or__(self, other: Any) -> Any:
        return Any

    def __ror__(self, other: Any) -> Any:
        return Any


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds what is not installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in _names():
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        make = _MAKERS.get(spec.name)
        return make(spec.name) if make else _Hollow(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Does nothing: the module is ready."""


def _jaxtyping(name: str) -> types.ModuleType:
    import jax

    class Annotation:
        """Stands for any array."""

        def __class_getitem__(cls, item: Any) -> Any:
            return Any

    module = types.ModuleType(name)
    for kind in ("Bool", "Complex", "Float", "Inexact", "Int", "UInt8"):
        setattr(module, kind, Annotation)
    vars(module).update(Array=jax.Array)
    return module


def _numba(name: str) -> types.ModuleType:
    import numpy as np

    def njit(function: Callable | None = None, **options: Any) -> Any:
        def jit(f: Callable) -> Callable:
            return np.errstate(over="ignore")(f)  # random streams are meant to wrap

        return jit if function is None else jit(function)

    module = types.ModuleType(name)
    vars(module).update(njit=njit)
    return module


def _grain(name: str) -> types.ModuleType:
    class MapDataset:
        """The numbers of a range, each mapped by a function."""

        def __init__(self, numbers: range, function: Callable[[int], Any] = lambda i: i):
            self._numbers, self._function = numbers, function

        @classmethod
        def range(cls, start: int, stop: int) -> "MapDataset":
            return cls(range(start, stop))

        def map(self, function: Callable[[int], Any]) -> "MapDataset":
            return MapDataset(self._numbers, function)

        def to_iter_dataset(self, options: tuple[int, int]) -> Iterator[Any]:
            return _read_ahead(self._function, self._numbers, *options)

    def read_options(num_threads: int, prefetch_buffer_size: int) -> tuple[int, int]:
        return num_threads, prefetch_buffer_size

    module = types.ModuleType(name)
    vars(module).update(MapDataset=MapDataset, ReadOptions=read_options)
    return module


def _read_ahead(
    function: Callable[[int], Any], numbers: range, threads: int, ahead: int
) -> Generator[Any, None, None]:
    """Yields function(i) in order, computed ahead in threads."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: list[Future] = [pool.submit(function, i) for i in numbers[:ahead]]
        try:
            for i in range(len(numbers)):
                done = waiting.pop(0).result()
                if i + ahead < len(numbers):
                    waiting.append(pool.submit(function, numbers[i + ahead]))
                yield done
        finally:
            for future in waiting:
                future.cancel()


_MAKERS: dict[str, Callable[[str], types.ModuleType]] = {
    "grain": _grain,
    "jaxtyping": _jaxtyping,
    "numba": _numba,
}


def _names() -> tuple[str, ...]:
    return (*_MAKERS, *HOLLOW)
