"""What a checkpoint holds, in words and numbers."""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from common.checkpoints.digests import combined_digest, leaf_digest
from common.checkpoints.files import find_checkpoint, load_checkpoint
from common.errors import shown
from common.files import StrPath

ENTRY_POINTS = "cssm_lab.checkpoint_models"
"""Group of entry points: functions that take a content and say which model it loads into, or None.

This package imports no model; a package with models names its function in its project file.
"""

SHORT_DIGEST = 12


def describe_checkpoint(path: StrPath) -> Iterator[str]:
    """Yields the lines that `inspect` prints: arrays, other values, digest, and fitting models.

    Raises:
        DataError: See `load_checkpoint`.
    """
    place, form = find_checkpoint(path)
    content = load_checkpoint(path)
    leaves = list(_leaves(content, ""))
    arrays = {name: np.asarray(x) for name, x in leaves if isinstance(x, np.ndarray | np.generic)}
    numbers, size = (sum(getattr(x, what) for x in arrays.values()) for what in ("size", "nbytes"))
    yield f"{place}: {form}, {len(arrays)} arrays, {numbers:,} numbers, {size:,} bytes"
    digests = {name: leaf_digest(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        yield f"  {name}  {_summary(array)}  {digests[name][:SHORT_DIGEST]}"
    for name, value in leaves:
        if name not in arrays:
            yield f"  {name} = {shown(repr(value))}"
    yield f"digest of the arrays: {combined_digest(digests)}"
    found = [line for line in (describe(content) for describe in _describers()) if line]
    yield f"loads into: {'; '.join(found) or 'no model that is known here'}"


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}/{shown(str(key))}" if place else shown(str(key)))
    elif isinstance(value, list | tuple) and any(isinstance(x, np.ndarray) for x in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{place}/{index}")
    else:
        yield place, value


def _summary(array: np.ndarray) -> str:
    """Describes an array: dtype, shape, bytes, and the statistics of its finite numbers."""
    text = f"{array.dtype}{list(array.shape)} {array.nbytes:,} bytes"
    if array.dtype.kind == "b":
        return f"{text}, {np.count_nonzero(array)} true"
    numbers = np.abs(array) if array.dtype.kind == "c" else array
    finite = np.isfinite(numbers)
    values = numbers[finite].astype(np.float64)
    if values.size:
        scale = np.max(np.abs(values)) or 1.0  # so that no sum of squares overflows
        mean, deviation = (values / scale).mean() * scale, (values / scale).std() * scale
        text += f", min {values.min():.4g} max {values.max():.4g}"
        text += f" mean {mean:.4g} std {deviation:.4g}"
    return text + (f", {finite.size - values.size} not finite" if not finite.all() else "")


def _describers() -> list[Callable[[Mapping[str, Any]], str | None]]:
    """Returns the functions of all entry points, of this project and of others installed here.

    Those of this project are read from its project file where that lies beside this package, since
    a clone need not be installed.
    """
    found = {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)}
    project = Path(__file__).parents[2] / "pyproject.toml"
    if project.is_file():
        named = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
        for name, value in named.get("entry-points", {}).get(ENTRY_POINTS, {}).items():
            found[name] = metadata.EntryPoint(name, value, ENTRY_POINTS)
    return [entry.load() for entry in found.values()]
