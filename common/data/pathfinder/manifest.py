"""What is known of the files of a Pathfinder data set, and whether they still are like that."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from common.data.pathfinder.shards import FORMATS, Shard, Written
from common.errors import DataError

MANIFEST = "manifest.json"
BLOCK = 1 << 20

Report = Callable[[int, int], None]


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """Returns the content of `folder/manifest.json`.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        shards_of(manifest)
        if manifest["format"] not in FORMATS or not isinstance(manifest["settings"], dict):
            raise ValueError("unknown format or settings")
        if not all({"file", "bytes", "sha256"} <= entry.keys() for entry in manifest["files"]):
            raise ValueError("incomplete entry of a file")
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist; the export is unfinished, or none") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged: {' '.join(str(error).split())}") from error
    return manifest


def find_damage(folder: str | os.PathLike, report: Report | None = None) -> list[str]:
    """Compares a finished data set with its manifest.

    Args:
        folder: what `export` returned.
        report: called with (images compared, images in all).

    Returns:
        A line for each shard or other file that is missing or not as it was written.

    Raises:
        DataError: the manifest is missing or damaged.
    """
    folder, manifest = Path(folder), read_manifest(folder)
    format = FORMATS[manifest["format"]]
    items = [(format.pattern(w.shard), format.files(w.shard), w) for w in shards_of(manifest)]
    total = sum(written.shard.count for _, _, written in items)
    lines, done = [], 0
    for name, files, written in items:
        lines += difference(folder, name, files, written.bytes, written.sha256)
        done += written.shard.count
        if report is not None:
            report(done, total)
    return lines + find_damaged_files(folder, manifest)


def find_damaged_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Returns a line for each closing file that is not as it was written."""
    lines = []
    for entry in manifest["files"]:
        name = entry["file"]
        lines += difference(folder, name, [name], entry["bytes"], entry["sha256"])
    return lines


def shards_of(manifest: Mapping[str, Any]) -> list[Written]:
    """Returns the shards that a manifest lists."""
    fields = [field.name for field in dataclasses.fields(Shard)]
    return [
        Written(Shard(**{f: entry[f] for f in fields}), entry["bytes"], entry["sha256"])
        for entry in manifest["shards"]
    ]


def read_notes(lines: Iterable[str]) -> dict[str, dict]:
    """Reads the notes; a line that a crash has torn is left out, and its shard made again."""
    notes = {}
    for line in filter(None, lines):
        try:
            note = json.loads(line)
            notes[note["name"]] = note
        except (ValueError, KeyError, TypeError):
            continue
    return notes


def make_note(written: Written) -> dict[str, Any]:
    """Returns what is noted of a shard before its files get their names."""
    return {"name": written.shard.name, "bytes": written.bytes, "sha256": written.sha256}


def append_note(path: Path, written: Written) -> None:
    """Appends a line in one call; the empty line before it closes one that a crash has torn."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, f"\n{json.dumps(make_note(written))}\n".encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def difference(folder: Path, name: str, files: list[str], size: int, sha256: str) -> list[str]:
    """Tells in one line how files differ from what is known of them; in none when they do not."""
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        which = missing[0] if len(files) > 1 else "it"
        return [f"{name}: {which} is missing"]
    found = sum((folder / file).stat().st_size for file in files)
    if found != size:
        return [f"{name}: {found} bytes, not {size}"]
    if digest(folder / file for file in files) != sha256:
        return [f"{name}: its SHA-256 is not that of the manifest"]
    return []


def digest(paths: Iterable[Path]) -> str:
    """Returns the SHA-256 of files, one after the other."""
    sha256 = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                sha256.update(block)
    return sha256.hexdigest()
