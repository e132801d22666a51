"""What a checkpoint tells of itself beside its arrays: notes, scores, types and digests, sealed.

The record lies in the metadata that Orbax commits with the arrays. Its seal is a digest of its
other entries, so that a record that was changed is known as such, whatever its format.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from common.array_types import PyTree
from common.checkpoints.digests import tree_digests
from common.checkpoints.matching import leaf_types
from common.errors import UserError

FORMAT = 1
"""Number of the format that is written, and the highest that is read."""

PACKAGES = ("jax", "flax", "orbax-checkpoint")

METADATA_FILE = "_CHECKPOINT_METADATA"
SCORES_FILE = Path("metrics", "metrics")
"""Files of Orbax's in the folder of a checkpoint."""


class DamagedCheckpoint(UserError):
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
        scores: Scores of the state, or None.
        notes: What the run noted beside the state.
        versions: Version of each library that wrote it.
        types: Shape and dtype of each leaf by name, as `leaf_types` gives them.
        digests: Digest of each leaf by name.
    """

    scores: dict[str, float] | None
    notes: dict[str, Any]
    versions: dict[str, str]
    types: dict[str, str]
    digests: dict[str, str]


def make_record(
    step: int, state: PyTree, scores: Mapping[str, float] | None, notes: Mapping[str, Any]
) -> dict[str, Any]:
    """Describes `state` for keeping beside it, as JSON; waits for its arrays."""
    record = {
        "format": FORMAT,
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "step": step,
        "scores": None if scores is None else dict(scores),
        "notes": dict(notes),
        "types": leaf_types(state),
        "digests": tree_digests(state),
    }
    return record | {"seal": seal_of(record)}


def read_record(folder: Path) -> Record:
    """Reads the record of the checkpoint in `folder`, and checks what needs no arrays.

    Raises:
        DamagedCheckpoint: The record is missing or was changed, or is of another step.
        UserError: A newer version of this project wrote it.
    """
    record = _read_json(folder, Path(METADATA_FILE)).get("custom_metadata")
    if not isinstance(record, dict) or "seal" not in record:
        raise DamagedCheckpoint(folder, f"{METADATA_FILE} holds no digests")
    if record["seal"] != seal_of(record):
        raise DamagedCheckpoint(folder, f"{METADATA_FILE} is not what was written")
    if record["format"] > FORMAT:
        raise UserError(
            f"checkpoint {folder} is of format {record['format']}, this version reads up to "
            f"{FORMAT}; it was written with {_listed(record['versions'])}; use a version as new"
        )
    if str(record["step"]) != folder.name:
        raise DamagedCheckpoint(folder, f"it is the checkpoint of step {record['step']}")
    _check_scores(folder, record["scores"])
    return Record(
        record["scores"],
        record["notes"],
        record["versions"],
        record["types"],
        record["digests"],
    )


def check_state(folder: Path, record: Record, state: PyTree) -> None:
    """Checks that the arrays of `state` are those that were saved.

    Raises:
        DamagedCheckpoint: Some are not; names them.
    """
    found = tree_digests(state)
    bad = [name for name, digest in record.digests.items() if found.get(name) != digest]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise DamagedCheckpoint(folder, f"{', '.join(bad[:3])}{more}: not the numbers saved")


def other_orbax(record: Record) -> str:
    """Tells with which version of Orbax a checkpoint was written, if not with the one here."""
    here, there = metadata.version("orbax-checkpoint"), record.versions["orbax-checkpoint"]
    return "" if here == there else f"written with orbax-checkpoint {there}, here is {here}"


def _check_scores(folder: Path, scores: dict[str, float] | None) -> None:
    """Checks Orbax's own copy of the scores, by which it chooses what to keep."""
    if scores is None:
        if (folder / SCORES_FILE).exists():
            raise DamagedCheckpoint(folder, f"{SCORES_FILE} should not be there")
    elif _read_json(folder, SCORES_FILE) != scores:
        raise DamagedCheckpoint(folder, f"{SCORES_FILE} is not what was written")


def _read_json(folder: Path, name: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / name).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedCheckpoint(folder, f"{name} is missing") from None
    except OSError as error:
        raise UserError(f"cannot read {folder / name}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise DamagedCheckpoint(folder, f"{name} is not JSON") from None
    if not isinstance(value, dict):
        raise DamagedCheckpoint(folder, f"{name} is not a JSON object")
    return value


def seal_of(record: Mapping[str, Any]) -> str:
    """Returns the digest of all entries of a record but its seal."""
    text = json.dumps({key: x for key, x in record.items() if key != "seal"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
