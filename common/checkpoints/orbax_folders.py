"""Folders of Orbax: what `convert` writes, and the steps that a training run keeps.

Beside its arrays a folder carries the digest of each leaf and a seal, the digest of all else that
it carries; Orbax itself notices no damage to the numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from common.array_types import PyTree
from common.checkpoints.contents import nested, put_together, take_apart
from common.checkpoints.digests import leaf_digest, named_leaves, tree_digests
from common.checkpoints.quiet import quiet_failures, quieten
from common.checkpoints.reader import first_line
from common.checkpoints.record import METADATA_FILE, seal_of
from common.checkpoints.refusal import Refusal
from common.files import StrPath, replacing

FORMAT = 1
"""Number of the format that `save_folder` writes, and the only one that is read."""

EXPORTED = ("params", "batch_stats")
"""Parts of a training state that are read for export, beside its step."""


def is_orbax(path: Path) -> bool:
    """Tells whether `path` is one checkpoint in a folder."""
    return (path / METADATA_FILE).is_file()


def find_step(path: Path) -> Path | None:
    """Returns the newest complete step of a run's folder or of its checkpoints, or None."""
    for folder in (path, path / "checkpoints"):
        steps = [step for step in folder.glob("[0-9]*") if step.name.isdigit() and is_orbax(step)]
        if steps:
            return max(steps, key=lambda step: int(step.name))
    return None


def save_folder(path: StrPath, content: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Writes the content of a checkpoint into a folder that appears when it is whole.

    Raises:
        UserError: The folder exists and `overwrite` is False, or it cannot be written.
    """
    quieten()
    arrays, text = take_apart(content)
    tree = nested(arrays)
    record = {"format": FORMAT, "content": text, "digests": tree_digests(tree)}
    with replacing(Path(path).absolute(), overwrite=overwrite) as scratch:
        # Orbax stores no tree without leaves.
        stored = tree or {"no_arrays": np.zeros(1, bool)}
        ocp.save(scratch, stored, custom_metadata=record | {"seal": seal_of(record)})


def load_folder(path: StrPath) -> dict[str, Any]:
    """Reads the content of a checkpoint: all that `save_folder` wrote, or a training run's step.

    Of a step these are the parameters, 'step', and the run's 'config' where it was noted. Every
    digest that the folder has of them is checked.

    Raises:
        Refusal: The folder is damaged, or not of this project; names the array where one is.
    """
    record, types = _describe(Path(path))
    if "content" in record:
        tree = _load(Path(path), types)
        _check_digests(record, tree)
        content = put_together(named_leaves(tree), record["content"])
        if not isinstance(content, dict):
            raise Refusal("its content is no dict")
        return content
    if not isinstance(types, dict) or "params" not in types:
        raise Refusal("holds no 'params'; expected a checkpoint of this project")
    wanted = {name: types[name] for name in (*EXPORTED, "step") if name in types}
    tree = _load(Path(path), {name: types[name] for name in types if name in wanted}, types)
    _check_digests(record, tree)
    step = {"step": int(tree.pop("step"))} if "step" in tree else {}
    config = (record.get("notes") or {}).get("config")
    return tree | step | ({"config": config} if config else {})


def verify_folder(path: StrPath) -> int:
    """Checks every digest that a folder carries; returns how many arrays were checked.

    Raises:
        Refusal: The folder carries none, or something in it is not as it was saved; names it.
    """
    record, types = _describe(Path(path))
    if "digests" not in record:
        raise Refusal("carries no digests; nothing to compare with")
    tree = _load(Path(path), types)
    _check_digests(record, tree)
    if missing := record["digests"].keys() - named_leaves(tree).keys():
        raise Refusal(f"{min(missing)} is missing")
    if "content" in record:
        put_together(named_leaves(tree), record["content"])
    return len(record["digests"])


def _describe(path: Path) -> tuple[dict[str, Any], PyTree]:
    """Returns what the folder carries beside its arrays, and their shapes and dtypes."""
    quieten()
    metadata = _read(lambda: ocp.metadata(path.absolute()))
    record, types = metadata.custom_metadata or {}, metadata.metadata
    if types is None:
        raise Refusal("the description of its arrays is damaged or missing")
    if "seal" in record and record["seal"] != seal_of(record):
        raise Refusal(f"{METADATA_FILE} is not what was written")
    if "content" in record and record.get("format") != FORMAT:
        raise Refusal(f"is of format {record.get('format')}; this version reads {FORMAT}")
    return record, types


def _load(path: Path, wanted: PyTree, types: PyTree | None = None) -> Any:
    """Reads the arrays that are wanted as NumPy's, of all that the folder holds."""
    target = jax.tree.map(_space, wanted)
    if types is not None:
        target = jax.tree.map(lambda _: ocp.PLACEHOLDER, types) | target
    tree = _read(lambda: ocp.load(path.absolute(), target))
    return {name: tree[name] for name in wanted} if types is not None else tree


def _space(leaf: Any) -> np.ndarray:
    """Returns an array that says what is expected and takes no memory."""
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def _check_digests(record: Mapping[str, Any], tree: PyTree) -> None:
    digests = record.get("digests", {})
    for name, array in named_leaves(tree).items():
        if digests and digests.get(name) not in _digests(array):
            raise Refusal(f"{name} is damaged: its digest is not that of the array that was saved")


def _digests(array: np.ndarray) -> list[str]:
    """Returns the digest of an array, and of the PRNG keys that it may be the integers of."""
    found = [leaf_digest(array)]
    if array.dtype == np.uint32 and array.shape[-1:] == (2,):
        found.append(leaf_digest(jax.random.wrap_key_data(jnp.asarray(array), impl="threefry2x32")))
    return found


def _read(action: Any) -> Any:
    """Reads something; damage gives one line instead of many pages."""
    with quiet_failures():
        try:
            return action()
        except Exception as error:
            reason = first_line(error)
    raise Refusal(f"cannot be read: {reason}")
