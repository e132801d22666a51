"""Reads and writes safetensors: arrays by name in one file, or in a Hugging Face folder.

A file is the length of its header (uint64, little-endian), the header (JSON), and the bytes of the
tensors one after the other. The header is checked here before the `safetensors` package reads the
file, since that package names no file in its errors and takes one name twice.
"""

import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from common.checkpoints.refusal import Refusal
from common.errors import DataError, UserError, shown
from common.files import StrPath, open_data_file, replacing

MAX_HEADER = 100_000_000
MAX_RANK = 32
MAX_NAMES = 20
"""Largest number of tensors that a message names."""

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype(bool),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "C64": np.dtype(np.complex64),
    **{f"I{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"F{bits}": np.dtype(f"f{bits // 8}") for bits in (16, 32, 64)},
}

Header = dict[str, Any]


def load_safetensors(path: StrPath) -> dict[str, np.ndarray]:
    """Reads all tensors of a file by their names, in the order of its header.

    Raises:
        DataError: The file cannot be read; its header is too long, no JSON, names a tensor twice or
            describes other bytes than there are; or a dtype is not among `DTYPES`.
    """
    header = read_header(path)
    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in header if name != "__metadata__"}
    except (SafetensorError, OSError, MemoryError) as error:
        raise DataError(f"{os.fspath(path)}: cannot be read: {error}") from None
    for name, tensor in tensors.items():
        if tensor.dtype == bool and (tensor.view(np.uint8) > 1).any():
            raise DataError(
                f"{os.fspath(path)}: tensor {shown(name)} of bools has other numbers than 0 and 1"
            )
    return tensors


def read_metadata(path: StrPath) -> dict[str, str]:
    """Returns the text that a file carries beside its tensors.

    Raises:
        DataError: As for `load_safetensors`.
    """
    return read_header(path).get("__metadata__", {})


def save_safetensors(
    path: StrPath,
    tensors: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Writes arrays by name into a file that appears when it is whole.

    Raises:
        UserError: The file exists and `overwrite` is False, or it cannot be written.
        ValueError: A dtype is not among `DTYPES`.
    """
    arrays = {name: _as_written(np.asarray(array)) for name, array in tensors.items()}
    for name, array in arrays.items():
        if array.dtype not in DTYPES.values():
            raise ValueError(f"safetensors has no {array.dtype}, the dtype of {name}")
    with replacing(path, overwrite=overwrite) as scratch:
        try:
            scratch.touch()
            mode = scratch.stat().st_mode
            save_file(arrays, scratch, dict(metadata or {}))
            scratch.chmod(mode)  # the package leaves it to its owner alone
        except SafetensorError as error:
            raise UserError(f"cannot write {path}: {error}") from None


def _as_written(array: np.ndarray) -> np.ndarray:
    """Returns an array in native order, row by row."""
    return array.astype(array.dtype.newbyteorder("="), order="C", copy=False)


def load_hf_tensors(folder: StrPath) -> dict[str, np.ndarray]:
    """Reads the tensors of a Hugging Face folder: 'model.safetensors', or the shards of its index.

    Raises:
        DataError: There is neither; a shard is missing, damaged or not in the folder; or the index
            and the shards do not hold the same tensors, each once.
    """
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists() or not index.exists():
        return load_safetensors(folder / "model.safetensors")
    weight_map = _weight_map(index)
    tensors: dict[str, np.ndarray] = {}
    for shard in sorted(set(weight_map.values())):
        found = load_safetensors(folder / shard)
        listed = {name for name, place in weight_map.items() if place == shard}
        if problems := _differences(found.keys(), listed):
            raise DataError(f"{folder / shard}: does not hold what {index.name} says: {problems}")
        tensors |= found
    return tensors


def check_shapes(
    tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], where: StrPath
) -> None:
    """Compares tensors with the shapes that a model gives them, such as by its config.

    Raises:
        DataError: They differ, with the names that do, at most 20 of them.
    """
    problems = [f"{name} is missing" for name in shapes if name not in tensors]
    problems += [f"{shown(name)} is unknown" for name in tensors if name not in shapes]
    for name in shapes.keys() & tensors.keys():
        if tensors[name].shape != tuple(shapes[name]):
            problems.append(f"{name} is {list(tensors[name].shape)}, expected {list(shapes[name])}")
    if problems:
        raise DataError(f"{os.fspath(where)}: does not fit: {_few(sorted(problems))}")


def read_header(path: StrPath) -> Header:
    """Reads and checks the header of a file: a dict of 'dtype', 'shape', 'data_offsets' by name.

    Raises:
        DataError: As for `load_safetensors`.
    """
    with open_data_file(path, "a safetensors file") as file:
        try:
            return _checked_header(file)
        except Refusal as refusal:
            reason = str(refusal)
    raise DataError(f"{os.fspath(path)}: {reason}")


def _checked_header(file: BinaryIO) -> Header:
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise Refusal(f"{size} bytes; expected a safetensors file")
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER:
        raise Refusal(
            f"a header of {length} bytes; expected {MAX_HEADER} at most: damaged, or not "
            "a safetensors file"
        )
    if length > size - 8:
        raise Refusal(f"cut off: a header of {length} bytes expected, {size - 8} left")
    header = _json_object(file.read(length))
    _check_metadata(header.get("__metadata__", {}))
    places = [
        _checked_place(name, entry) for name, entry in header.items() if name != "__metadata__"
    ]
    _check_places(sorted(places), size - 8 - length)
    return header


def _json_object(raw: bytes) -> Header:
    if not raw.startswith(b"{"):
        raise Refusal("a header that is no JSON object")
    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=_without_twins, parse_constant=_no_constant
        )
    except UnicodeDecodeError:
        raise Refusal("a header that is not UTF-8") from None
    except (ValueError, RecursionError):
        raise Refusal("a header that is no JSON object") from None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twin = next(name for name, _ in pairs if name in seen or seen.add(name))
        raise Refusal(f"{shown(twin)} stands there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(type(text) is str for text in metadata.values()):
        raise Refusal("__metadata__ is not text by name")


def _checked_place(name: str, entry: Any) -> tuple[int, int, str]:
    """Returns where a tensor begins and ends, whose length is that of its shape and dtype."""
    what = f"tensor {shown(name)}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise Refusal(f"{what} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Refusal(f"{what} has dtype {shown(dtype)}; expected one of {', '.join(DTYPES)}")
    if not _are_counts(shape) or len(shape) > MAX_RANK:
        raise Refusal(f"{what} has no shape of {MAX_RANK} axes or fewer")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise Refusal(f"{what} has no data_offsets from where to where")
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if math.prod(length for length in shape if length) > 2**60 or expected > 2**60:
        raise Refusal(f"{what} is too large for any machine")
    if offsets[1] - offsets[0] != expected:
        raise Refusal(
            f"{what} {dtype}{shape} has {offsets[1] - offsets[0]} bytes; expected {expected}"
        )
    return offsets[0], offsets[1], what


def _are_counts(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < 2**63 for n in numbers)


def _check_places(places: list[tuple[int, int, str]], size: int) -> None:
    """Checks that the tensors fill the rest of the file one after the other."""
    begun = [(0, 0, "the header"), *places]
    for (_, end, before), (start, _, after) in itertools.pairwise(begun):
        if start != end:
            how = "overlaps" if start < end else "leaves a gap after"
            raise Refusal(f"{after} {how} {before}")
    end = begun[-1][1]
    if end > size:
        raise Refusal(f"cut off: {end} bytes of tensors expected, {size} left")
    if end < size:
        raise Refusal(f"goes on for {size - end} bytes after its last tensor")


def _weight_map(index: Path) -> dict[str, str]:
    with open_data_file(index, "an index of shards") as file:
        try:
            weight_map = _json_object(file.read(MAX_HEADER)).get("weight_map")
        except Refusal as refusal:
            reason = str(refusal).replace("a header", "a file")
            raise DataError(f"{index}: {reason}") from None
    if not isinstance(weight_map, dict) or not weight_map:
        raise DataError(f"{index}: has no weight_map of shards by tensor")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _is_plain_name(shard):
            raise DataError(
                f"{index}: {shown(name)} is in {shown(shard)}; expected a file of this folder"
            )
    return weight_map


def _is_plain_name(name: str) -> bool:
    return name.endswith(".safetensors") and not set(name) & set("/\\:\0") and name.isprintable()


def _differences(found: Any, listed: Any) -> str:
    problems = [f"{shown(name)} is missing" for name in sorted(listed - found)]
    problems += [f"{shown(name)} is not listed there" for name in sorted(found - listed)]
    return _few(problems)


def _few(problems: list[str]) -> str:
    if len(problems) > MAX_NAMES:
        problems = [*problems[:MAX_NAMES], f"and {len(problems) - MAX_NAMES} more"]
    return "; ".join(problems)
