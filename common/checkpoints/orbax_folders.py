"""One checkpoint in a folder of Orbax: a step of a training run, or what `convert` writes.

Orbax itself notices no damage to numbers; every array is checked against the folder's record.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from common.array_types import PyTree
from common.checkpoints.contents import nested, put_together, take_apart
from common.checkpoints.digests import named_leaves
from common.checkpoints.quiet import ignore_abandoned_reads, quiet_failures, quieten
from common.checkpoints.record import (
    METADATA_FILE,
    DamagedCheckpoint,
    Record,
    check_digests,
    is_foreign,
    make_record,
    other_orbax,
    read_record,
)
from common.checkpoints.refusal import Refusal
from common.errors import DataError
from common.files import StrPath, replacing

STATE = "state"
"""Name of the arrays among what Orbax keeps in a folder."""

EXPORTED = ("params", "batch_stats", "step")
"""Parts of a training state that are read for export."""


def is_orbax(path: Path) -> bool:
    """Tells whether `path` is one checkpoint in a folder."""
    return (path / METADATA_FILE).is_file()


def find_step(path: Path) -> Path | None:
    """Returns the newest step of a run's folder or of its checkpoints, damaged or not, or None."""
    for folder in (path, path / "checkpoints"):
        if steps := [step for step in folder.glob("[0-9]*") if step.name.isdecimal()]:
            return max(steps, key=lambda step: int(step.name))
    return None


def save_folder(path: StrPath, content: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Writes the content of a checkpoint into a folder that appears when it is whole.

    Raises:
        UserError: The folder exists and `overwrite` is False, or it cannot be written.
    """
    quieten()
    arrays, text = take_apart(content)
    tree = nested(arrays) or {"no_arrays": np.zeros(1, bool)}  # Orbax stores no tree without any
    record = make_record(tree, content=text)
    with replacing(Path(path).absolute(), overwrite=overwrite) as scratch:
        ocp.save(scratch, tree, custom_metadata=record)


def load_folder(path: StrPath) -> dict[str, Any]:
    """Reads the content of a checkpoint: all that `save_folder` wrote, or parts of another.

    Of a training run's step, and of what other programs saved, these are the parameters, their
    running statistics, 'step', and the run's 'config' where it was noted. Every digest that the
    folder has of them is checked.

    Raises:
        DataError: The folder is damaged, or holds no parameters; names the array where one is.
    """
    folder = Path(path).absolute()
    record = None if is_foreign(folder) else read_record(folder)
    types = _types(folder, record)
    if record and record.content is not None:
        return _put_together(folder, record, load_arrays(folder, record, _spaces(types)))
    if not isinstance(types, dict) or "params" not in types:
        raise DataError(f"{folder}: holds no 'params'; expected the checkpoint of a model")
    target = {
        name: _spaces(inner) if name in EXPORTED else jax.tree.map(lambda _: ocp.PLACEHOLDER, inner)
        for name, inner in types.items()
    }
    found = load_arrays(folder, record, target, EXPORTED)
    step = {"step": int(found["step"])} if np.ndim(found.get("step", [])) == 0 else {}
    config = (record.notes if record else {}).get("config")
    return found | step | ({"config": config} if config else {})


def verify_folder(path: StrPath) -> int:
    """Checks every digest that a folder carries; returns how many arrays were checked.

    Raises:
        DataError: The folder carries none, or something in it is not as it was saved; names it.
    """
    folder = Path(path).absolute()
    if is_foreign(folder):
        raise DataError(f"{folder}: carries no digests; nothing to compare with")
    record = read_record(folder)
    tree = load_arrays(folder, record, _spaces(_types(folder, record)))
    if record.content is not None:
        _put_together(folder, record, tree)
    return len(record.digests)


def load_arrays(
    folder: Path, record: Record | None, target: PyTree, parts: tuple[str, ...] | None = None
) -> Any:
    """Reads arrays and checks each against its digest.

    Args:
        folder: The checkpoint, by its whole path.
        record: Its record; None where it has none, and nothing can be checked.
        target: Shape and dtype of each array, or Orbax's placeholder for those to leave out.
        parts: The entries of `target` that are not left out; by default all.

    Raises:
        DamagedCheckpoint: An array is not as it was saved, or cannot be read.
        DataError: The folder may not be read, or is of another version of Orbax.
        MemoryError: The arrays do not fit into memory.
    """
    tree = _read(folder, record, lambda: ocp.load(folder, target))
    if parts is not None:
        tree = {name: tree[name] for name in parts if name in tree}
    if record is not None:
        check_digests(folder, record, tree, parts)
    return tree


def _types(folder: Path, record: Record | None) -> PyTree:
    """Returns what Orbax says of the arrays, in their tree."""
    types = _read(folder, record, lambda: ocp.metadata(folder).metadata)
    if types is None:  # Orbax does not say why, but does where it reads them
        _read(folder, record, lambda: ocp.load(folder))
        raise DamagedCheckpoint(folder, "nothing says which arrays it holds")
    return types


def _spaces(types: PyTree) -> PyTree:
    """Returns arrays that say what is expected and take no memory; numbers stay as they are."""
    return jax.tree.map(
        lambda leaf: (
            np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
            if hasattr(leaf, "dtype")
            else leaf
        ),
        types,
    )


def _put_together(folder: Path, record: Record, tree: PyTree) -> dict[str, Any]:
    try:
        content = put_together(named_leaves(tree), record.content or "")
    except Refusal as refusal:
        raise DamagedCheckpoint(folder, str(refusal)) from None
    if not isinstance(content, dict):
        raise DamagedCheckpoint(folder, "its content is no dict")
    return content


def _read(folder: Path, record: Record | None, action: Callable[[], Any]) -> Any:
    """Reads something; a failure gives one line instead of many pages."""
    quieten()
    with quiet_failures():
        try:
            return action()
        except MemoryError:
            raise
        except Exception as error:
            ignore_abandoned_reads()
            reason = first_line(_root(error)).replace(f"{folder}/", "")
            reason = (_culprit(folder) if record else "") + reason.partition(" [tensorstore")[0]
            refused = isinstance(_root(error), PermissionError)
        del action  # and with it what the failure may hold of the arrays
    if "RESOURCE_EXHAUSTED" in reason:
        raise MemoryError(f"checkpoint {folder} cannot be read: {reason}")
    if refused or "PERMISSION_DENIED" in reason:
        raise DataError(f"checkpoint {folder} cannot be read: {reason}")
    if record and (others := other_orbax(record)):
        raise DataError(
            f"checkpoint {folder} cannot be read ({reason}); it was {others}; use that version, "
            "or, if it is damaged, remove the folder to go on from the one before it"
        )
    raise DamagedCheckpoint(folder, reason)


def _culprit(folder: Path) -> str:
    """Names the first description of the arrays that is not JSON, which Orbax's error does not."""
    shardings = folder / STATE / "_sharding"
    for file in (folder / STATE / "_METADATA", *([shardings] if shardings.exists() else [])):
        try:
            json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return f"{file.relative_to(folder)} is {'damaged' if file.exists() else 'missing'}: "
    return ""


def _root(error: BaseException) -> BaseException:
    """Returns the error that the others were raised for."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return error


def first_line(error: BaseException) -> str:
    """Returns the first line of what an error says, cut at 400 characters."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:400]
