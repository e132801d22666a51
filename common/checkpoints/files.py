"""Checkpoints of any format as one content: a dict as the notebooks' pickles hold it."""

import hashlib
import json
import os
import pickle
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray

from common.checkpoints.contents import nested, put_together, take_apart
from common.checkpoints.digests import leaf_digest
from common.checkpoints.orbax_folders import (
    find_step,
    is_orbax,
    load_folder,
    save_folder,
    verify_folder,
)
from common.checkpoints.pickles import load_pickle, other_format
from common.checkpoints.refusal import Refusal
from common.checkpoints.tensors import (
    load_hf_tensors,
    load_safetensors,
    read_metadata,
    save_safetensors,
)
from common.errors import DataError, UserError, shown
from common.files import StrPath, replacing

FORMATS = ("orbax", "pickle", "safetensors")
CONTENT = "cssm_lab.content"
DIGESTS = "cssm_lab.digests"
"""What is kept beside the tensors of a safetensors file: all that is no array, and digests."""

PROTOCOL = 4

EXPECTED = "a pickle, a safetensors file, or a folder of Orbax, Hugging Face or a training run"

HEAD = 64
PICKLE_STARTS = (b"\x80", b"(", b"}", b"c")
"""First bytes of a pickled dict: of protocols 2 to 5, and of a dict by 0, by 1, or of a class."""


def find_checkpoint(path: StrPath) -> tuple[Path, str]:
    """Returns the file or folder that `path` leads to, and its format.

    A training run's folder, or its 'checkpoints', leads to the newest step.

    Raises:
        DataError: There is none, or it may not be read, or it is something else by its beginning.
    """
    path = Path(path)
    try:
        found = _find_in_folder(path) if path.is_dir() else (path, _format_of_file(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file or folder; expected {EXPECTED}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read: {reason}") from None
    except Refusal as refusal:
        raise DataError(f"{path}: {refusal}; expected {EXPECTED}") from None
    return found


def load_checkpoint(path: StrPath) -> dict[str, Any]:
    """Reads a pickle, a safetensors file, a Hugging Face folder, or a folder of Orbax.

    Returns:
        Nested dicts of NumPy arrays and plain values, such as {'params': ..., 'epoch': 19}. Tensors
        of other writers are below 'params', nested at the dots of their names.

    Raises:
        DataError: It cannot be read, is damaged or holds something else; see `load_pickle`,
            `load_safetensors`, `load_hf_tensors` and `load_folder`.
    """
    place, form = find_checkpoint(path)
    try:
        if form == "orbax":
            return load_folder(place)
        if form == "pickle":
            return load_pickle(place)
        if form == "huggingface":
            return _nested_tensors(load_hf_tensors(place))
        return _from_tensors(load_safetensors(place), read_metadata(place))
    except Refusal as refusal:
        raise DataError(f"{place}: {refusal}") from None


def save_checkpoint(
    path: StrPath, content: Mapping[str, Any], form: str, *, overwrite: bool = False
) -> None:
    """Writes a content as `form`, one of `FORMATS`; `load_checkpoint` gives it back bit for bit.

    A pickle is of plain dicts and NumPy arrays by protocol 4, under the names of NumPy 1.x, which
    any NumPy from 1.x on reads.

    Raises:
        UserError: `path` exists and `overwrite` is False, it cannot be written, or the format does
            not have a dtype.
    """
    try:
        if form == "orbax":
            save_folder(path, content, overwrite=overwrite)
        elif form == "pickle":
            _save_pickle(path, content, overwrite)
        else:
            _save_tensors(path, content, overwrite)
    except (ValueError, TypeError, Refusal) as error:
        raise UserError(f"cannot write {path} as {form}: {error}") from None


def verify_checkpoint(path: StrPath) -> str:
    """Reads a whole checkpoint and checks it against the digests that it carries.

    Returns:
        What was checked, in one line.

    Raises:
        DataError: Something is not as it was saved; names it.
    """
    place, form = find_checkpoint(path)
    try:
        if form == "orbax":
            return f"{place}: {verify_folder(place)} digests agree"
        content = load_checkpoint(place)
    except Refusal as refusal:
        raise DataError(f"{place}: {refusal}") from None
    if form == "safetensors" and CONTENT in (metadata := read_metadata(place)):
        return f"{place}: {len(_digests(metadata)) - 1} digests agree"
    arrays, _ = take_apart(content)
    return f"{place}: {len(arrays)} arrays are well-formed; this format carries no digests"


def _find_in_folder(path: Path) -> tuple[Path, str]:
    names = os.listdir(path)
    if is_orbax(path):
        return path, "orbax"
    if any(name.startswith("model.safetensors") for name in names):
        return path, "huggingface"
    if step := find_step(path):
        return step, "orbax"
    raise Refusal("a folder without a checkpoint")


def _format_of_file(path: Path) -> str:
    if not stat.S_ISREG(path.stat().st_mode):
        raise Refusal("no regular file")
    with path.open("rb") as file:
        start = file.read(HEAD)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return "safetensors"
    if other := other_format(start):
        raise Refusal(f"seems to be {other}")
    if start[:1] not in PICKLE_STARTS:
        raise Refusal("no checkpoint by its first byte" if start else "an empty file")
    return "pickle"


def _save_tensors(path: StrPath, content: Mapping[str, Any], overwrite: bool) -> None:
    arrays, text = take_apart(content, ".")
    digests = {name: leaf_digest(array) for name, array in arrays.items()} | {"": _digest(text)}
    metadata = {CONTENT: text, DIGESTS: json.dumps(digests)}
    save_safetensors(path, arrays, metadata, overwrite=overwrite)


def _from_tensors(tensors: dict[str, np.ndarray], metadata: Mapping[str, str]) -> dict[str, Any]:
    if CONTENT not in metadata:
        return _nested_tensors(tensors)
    text = metadata[CONTENT]
    digests = _digests(metadata)
    if digests.get("") != _digest(text):
        raise Refusal(f"{CONTENT} is not what was written")
    for name, array in tensors.items():
        if digests.get(name) != leaf_digest(array):
            raise Refusal(f"is damaged: {shown(name)}: not the numbers saved")
    content = put_together(tensors, text)
    if not isinstance(content, dict):
        raise Refusal("its content is no dict")
    return content


def _nested_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree = nested(tensors, ".")
    return tree if "params" in tree else {"params": tree}


def _digests(metadata: Mapping[str, str]) -> dict[str, str]:
    try:
        digests = json.loads(metadata.get(DIGESTS, "{}"))
    except (ValueError, RecursionError):
        digests = None
    if not isinstance(digests, dict):
        raise Refusal(f"{DIGESTS} is not what was written")
    return digests


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


_PythonPickler: Any = pickle._Pickler  # whose methods the stubs leave out


class _PickleWriter(_PythonPickler):
    """Writes NumPy's functions under their names in NumPy 1.x, which 2.x knows too."""

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if obj not in (multiarray._reconstruct, multiarray.scalar):
            super().save_global(obj, name)
            return
        self.save("numpy.core.multiarray")
        self.save(obj.__name__)
        self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)


def _save_pickle(path: StrPath, content: Mapping[str, Any], overwrite: bool) -> None:
    with replacing(path, overwrite=overwrite) as scratch, scratch.open("xb") as file:
        _PickleWriter(file, PROTOCOL).dump(dict(content))
