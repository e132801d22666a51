"""What a checkpoint of Orbax tells of itself beside its arrays: types, digests and more, sealed.

A run's steps and what `convert` writes have the same record. It lies in the metadata that
Orbax commits with the arrays. Its seal is a digest of its other entries, so that a record that was
changed is known as such, whatever its format.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from common.array_types import PyTree
from common.checkpoints.digests import leaf_digest, named_leaves, tree_digests
from common.checkpoints.matching import leaf_types
from common.errors import DataError

FORMAT = 1
"""Number of the format that is written, and the highest that is read."""

PACKAGES = ("jax", "flax", "orbax-checkpoint")

KEY_WIDTHS = {"threefry2x32": 2, "rbg": 4, "unsafe_rbg": 4}
"""Number of integers in a PRNG key, by the name of its generator."""

METADATA_FILE = "_CHECKPOINT_METADATA"
SCORES_FILE = Path("metrics", "metrics")
"""Files of Orbax's in the folder of a checkpoint."""


class DamagedCheckpoint(DataError):
    """A checkpoint that is not as it was saved.

    Attributes:
        reason: What is wrong, with the file or the array.
    """

    def __init__(self, folder: Path, reason: str):
        self.reason = reason
        super().__init__(f"checkpoint {folder} is damaged: {reason}")


@dataclasses.dataclass(frozen=True)
class Record:
    """What a checkpoint tells of itself.

    Attributes:
        versions: Version of each library that wrote it.
        types: Shape and dtype of each leaf by name, as `leaf_types` gives them.
        digests: Digest of each leaf by name.
        step: Number of finished steps; None where it is of no run.
        scores: Scores of the state, or None.
        notes: What the run noted beside the state.
        content: By what `put_together` makes a converted checkpoint; None for the steps of a run.
    """

    versions: dict[str, str]
    types: dict[str, str]
    digests: dict[str, str]
    step: int | None = None
    scores: dict[str, float] | None = None
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    content: str | None = None

    def is_sound(self) -> bool:
        """Tells whether the entries are of their types, as those of a forged record may not be."""
        named = (self.versions, self.types, self.digests, self.notes, self.scores or {})
        return (
            all(isinstance(entries, dict) for entries in named)
            and isinstance(self.step, int | None)
            and isinstance(self.content, str | None)
        )


def make_record(tree: PyTree, **entries: Any) -> dict[str, Any]:
    """Describes `tree` for keeping beside it, as JSON; waits for its arrays.

    Args:
        tree: What is saved.
        **entries: Those of a `Record` that the tree does not tell.
    """
    versions = {name: metadata.version(name) for name in PACKAGES}
    record = Record(versions, leaf_types(tree), tree_digests(tree), **entries)
    sealed = {"format": FORMAT, **dataclasses.asdict(record)}
    return sealed | {"seal": seal_of(sealed)}


def read_record(folder: Path) -> Record:
    """Reads the record of the checkpoint in `folder`, and checks what needs no arrays.

    Raises:
        DamagedCheckpoint: The record is missing or was changed, or is of another step.
        DataError: A newer version of this project wrote it, or it cannot be read.
    """
    sealed = _read_json(folder, Path(METADATA_FILE)).get("custom_metadata")
    if not isinstance(sealed, dict) or "seal" not in sealed:
        raise DamagedCheckpoint(folder, f"{METADATA_FILE} holds no digests")
    if sealed.pop("seal") != seal_of(sealed):
        raise DamagedCheckpoint(folder, f"{METADATA_FILE} is not what was written")
    number = sealed.pop("format", None)
    if isinstance(number, int) and number > FORMAT:
        raise DataError(
            f"checkpoint {folder} is of format {number}, this version reads up to {FORMAT}; "
            f"it was written with {_listed(sealed.get('versions'))}; use a version as new"
        )
    try:
        record = Record(**sealed)
    except TypeError:
        record = None
    if record is None or number != FORMAT or not record.is_sound():
        raise DamagedCheckpoint(folder, f"{METADATA_FILE} has entries of another kind")
    if record.step is not None:
        _check_step(folder, record)
    return record


def is_foreign(folder: Path) -> bool:
    """Tells whether another program wrote the checkpoint in `folder`, which then has no record.

    Raises:
        DamagedCheckpoint: That cannot be told.
        DataError: It cannot be read.
    """
    return _read_json(folder, Path(METADATA_FILE)).get("custom_metadata") == {}


def check_digests(
    folder: Path, record: Record, tree: PyTree, parts: Collection[str] | None = None
) -> None:
    """Checks that the arrays of `tree` are those saved, or those below the entries `parts`.

    Raises:
        DamagedCheckpoint: Some are not, or are missing, or were not saved; names them.
    """
    found = named_leaves(tree)
    saved = [name for name in record.digests if parts is None or name.split("/")[0] in parts]
    bad = [
        name
        for name in dict.fromkeys([*saved, *found])
        if name not in found or record.digests.get(name, "") not in _possible_digests(found[name])
    ]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise DamagedCheckpoint(folder, f"{', '.join(bad[:3])}{more}: not the numbers saved")


def _possible_digests(leaf: Any) -> Iterator[str]:
    """Yields the digest of a leaf, and of the PRNG keys whose integers it is if NumPy's."""
    yield leaf_digest(leaf)
    for name, width in KEY_WIDTHS.items() if isinstance(leaf, np.ndarray) else ():
        if leaf.dtype == np.uint32 and leaf.shape[-1:] == (width,):
            yield leaf_digest(jax.random.wrap_key_data(jnp.asarray(leaf), impl=name))


def other_orbax(record: Record) -> str:
    """Tells with which version of Orbax a checkpoint was written, if not with the one here."""
    here, there = metadata.version("orbax-checkpoint"), record.versions.get("orbax-checkpoint")
    return "" if here == there else f"written with orbax-checkpoint {there}, here is {here}"


def _check_step(folder: Path, record: Record) -> None:
    """Checks a step against the name of its folder, where it has one, and its scores.

    Orbax chooses by its own copy of the scores what to keep.
    """
    if folder.name.isdecimal() and folder.name != str(record.step):
        raise DamagedCheckpoint(folder, f"it is the checkpoint of step {record.step}")
    if record.scores is None:
        if (folder / SCORES_FILE).exists():
            raise DamagedCheckpoint(folder, f"{SCORES_FILE} should not be there")
    elif _read_json(folder, SCORES_FILE) != record.scores:
        raise DamagedCheckpoint(folder, f"{SCORES_FILE} is not what was written")


def _read_json(folder: Path, name: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / name).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedCheckpoint(folder, f"{name} is missing") from None
    except OSError as error:
        raise DataError(f"cannot read {folder / name}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise DamagedCheckpoint(folder, f"{name} is not JSON") from None
    if not isinstance(value, dict):
        raise DamagedCheckpoint(folder, f"{name} is not a JSON object")
    return value


def seal_of(record: Mapping[str, Any]) -> str:
    """Returns the digest of all entries of a record but its seal."""
    text = json.dumps({key: x for key, x in record.items() if key != "seal"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _listed(versions: Any) -> str:
    if not isinstance(versions, dict):
        return "unknown versions"
    return ", ".join(f"{name} {version}" for name, version in versions.items())
