"""Writes Pathfinder data sets to disk in shards: many processes, resumable, checked by digests.

A shard is made in a scratch folder, then its size and SHA-256 are noted in `progress.jsonl`, then
its files are renamed into place. It counts as finished when its files agree with the note.
`manifest.json` comes last and replaces the notes: a folder that has one is complete.
"""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import json
import os
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common.data.pathfinder.dataset import GENERATOR_VERSION, SPLITS, split_seed
from common.data.pathfinder.examples import draw_examples
from common.data.pathfinder.manifest import (
    MANIFEST,
    Report,
    append_note,
    difference,
    digest,
    find_damaged_files,
    make_note,
    read_manifest,
    read_notes,
    shards_of,
)
from common.data.pathfinder.scene import draw_images
from common.data.pathfinder.settings import PathfinderSettings
from common.data.pathfinder.shards import FORMATS, Shard, Written, plan_shards
from common.data.pathfinder.workers import map_in_processes, parent_is_dead
from common.errors import DataError, UserError

SHARD_SIZE = 1024
PROGRESS = "progress.jsonl"
SCRATCH = ".partial"


@dataclasses.dataclass(frozen=True)
class Job:
    """What a worker has to know of a data set."""

    settings: PathfinderSettings
    seed: int
    format: str
    folder: Path


class _Orphaned(Exception):
    """Ends a worker whose parent has died."""


def export(
    settings: PathfinderSettings,
    counts: Mapping[str, int],
    out: str | os.PathLike,
    format: str,
    seed: int = 0,
    workers: int | None = None,
    shard_size: int = SHARD_SIZE,
    report: Report | None = None,
) -> Path:
    """Writes a data set, or goes on with one that was begun with the same arguments.

    Image i of a split is image i of `split_seed(seed, split)`: even ones are positive. The bytes
    written do not depend on `workers`, nor on where the work was stopped and resumed.

    Args:
        settings: the family of images.
        counts: number of images by split ('train', 'validation', 'test'), each even.
        out: folder below which the data set's own folder is made.
        format: a name in `FORMATS`: 'array_record', 'tfrecord' or 'png'.
        seed: seed of the whole data set.
        workers: number of processes, by default one for each core; 0 works in this one. As they
            are spawned, a script that calls this needs `if __name__ == "__main__":`.
        shard_size: images in a shard, even.
        report: called with (images done, images in all), first for what was found finished.

    Returns:
        The data set's folder.

    Raises:
        UserError: an argument is wrong, the folder holds something else or cannot be written.
    """
    _check(counts, format, seed, workers, shard_size)
    workers = _cores() if workers is None else workers
    folder = Path(out) / FORMATS[format].folder(settings)
    job = Job(settings, seed, format, folder)
    counts = {split: int(counts[split]) for split in SPLITS if split in counts}
    identity = _identity(job, counts, shard_size)
    shards = plan_shards(counts, shard_size)
    with _one_line_errors(folder), _locked(folder):
        notes = _begin(folder, identity)
        finished = _finished(job, shards, notes)
        todo = [shard for shard in shards if shard.name not in finished]
        total = sum(counts.values())
        done = total - sum(shard.count for shard in todo)
        if report is not None:
            report(done, total)
        with contextlib.closing(_make_all(job, todo, workers)) as making:
            for written in making:
                finished[written.shard.name] = written
                done += written.shard.count
                if report is not None:
                    report(done, total)
        if todo or not _is_closed(folder):
            _finish(job, identity, [finished[shard.name] for shard in shards])
        (folder / PROGRESS).unlink(missing_ok=True)
    return folder


def _check(
    counts: Mapping[str, int], format: str, seed: int, workers: int | None, shard_size: int
) -> None:
    if format not in FORMATS:
        raise UserError(f"format is {format!r}; choose one of {', '.join(FORMATS)}")
    if not counts:
        raise UserError("counts are empty; give the number of images of one split at least")
    for split, count in counts.items():
        if split not in SPLITS:
            raise UserError(f"split is {split!r}; choose one of {', '.join(SPLITS)}")
        if count <= 0 or count % 2:
            raise UserError(f"{split} count is {count}; it must be even and positive")
    if shard_size <= 0 or shard_size % 2:
        raise UserError(f"shard_size is {shard_size}; it must be even and positive")
    if seed < 0:
        raise UserError(f"seed is {seed}; expected 0 or more")
    if workers is not None and workers < 0:
        raise UserError(f"workers is {workers}; expected 0 or more")


def _cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _identity(job: Job, counts: dict[str, int], shard_size: int) -> dict[str, Any]:
    return {
        "format": job.format,
        "generator_version": GENERATOR_VERSION,
        "settings": dataclasses.asdict(job.settings),
        "seed": job.seed,
        "counts": counts,
        "shard_size": shard_size,
    }


@contextlib.contextmanager
def _one_line_errors(folder: Path) -> Generator[None, None, None]:
    try:
        yield
    except OSError as error:
        raise UserError(_cannot_write(folder, error)) from error


def _cannot_write(folder: Path, error: OSError) -> str:
    hint = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "; finished shards are kept: make room and run the same again"
    return f"cannot write {folder}: {error.strerror or error}{hint}"


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None, None, None]:
    """Holds the folder against other exports, and clears the scratch folder before and after."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another export is writing there") from error
        except OSError:
            pass  # a file system without locks
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        try:
            yield
        finally:
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    finally:
        os.close(descriptor)


def _begin(folder: Path, identity: dict[str, Any]) -> dict[str, dict]:
    """Returns the notes on finished shards by name; refuses a folder of another data set."""
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        _refuse_others(folder, identity, manifest)
        return {written.shard.name: make_note(written) for written in shards_of(manifest)}
    if (folder / PROGRESS).exists():
        first, *lines = (folder / PROGRESS).read_text(encoding="utf-8").splitlines() or [""]
        try:
            begun = json.loads(first)
        except ValueError as error:
            raise DataError(f"{folder / PROGRESS}: damaged; delete {folder}") from error
        _refuse_others(folder, identity, begun)
        return read_notes(lines)
    if any(folder.iterdir()):
        raise UserError(f"{folder} holds files that are no export; choose another folder")
    _write_whole(folder / PROGRESS, json.dumps(identity) + "\n")
    return {}


def _refuse_others(folder: Path, asked: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for key in asked:
        if isinstance(asked[key], dict) and isinstance(found.get(key), dict):
            for part in {**asked[key], **found[key]}:
                _refuse_other(folder, f"{key}.{part}", asked[key].get(part), found[key].get(part))
        else:
            _refuse_other(folder, key, asked[key], found.get(key))


def _refuse_other(folder: Path, key: str, asked: Any, found: Any) -> None:
    if asked != found:
        raise UserError(
            f"{folder} holds an export with {key} {json.dumps(found)}, not {json.dumps(asked)}; "
            "choose another folder or the same arguments"
        )


def _finished(job: Job, shards: list[Shard], notes: dict[str, dict]) -> dict[str, Written]:
    """Returns by name the shards whose files agree with their note."""
    format = FORMATS[job.format]

    def look(shard: Shard) -> Written | None:
        note = notes.get(shard.name)
        if note is None:
            return None
        files = format.files(shard)
        if difference(job.folder, shard.name, files, note["bytes"], note["sha256"]):
            return None
        return Written(shard, note["bytes"], note["sha256"])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return {w.shard.name: w for w in pool.map(look, shards) if w is not None}


def _make_all(job: Job, shards: list[Shard], workers: int) -> Generator[Written, None, None]:
    if shards:
        draw_images(job.settings, 0, 0, 2)  # compiles once, for all workers to load
    return map_in_processes(functools.partial(_make_shard, job), shards, workers)


def _is_closed(folder: Path) -> bool:
    """Tells whether the manifest and the closing files are there and whole."""
    return (folder / MANIFEST).exists() and not find_damaged_files(folder, read_manifest(folder))


def _make_shard(job: Job, shard: Shard) -> Written:
    """Makes one shard, in a worker: scratch files, note, names."""
    format = FORMATS[job.format]
    scratch = job.folder / SCRATCH / f"{shard.name}-{os.getpid()}"
    with _one_line_errors(job.folder):
        try:
            scratch.mkdir(parents=True)
            format.write(shard, _examples(job, shard), scratch)
            files = format.files(shard)
            size = _sync(scratch / file for file in files)
            written = Written(shard, size, digest(scratch / file for file in files))
            append_note(job.folder / PROGRESS, written)
            _move(scratch, job.folder, files)
        except UserError as error:
            if isinstance(error.__cause__, OSError):
                raise UserError(_cannot_write(job.folder, error.__cause__)) from error
            raise
        except _Orphaned:
            raise SystemExit from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return written


def _examples(job: Job, shard: Shard) -> Iterator[dict[str, Any]]:
    seed = split_seed(job.seed, shard.split)
    for i, example in enumerate(draw_examples(job.settings, seed, shard.start, shard.count)):
        if i % 64 == 0 and parent_is_dead():
            raise _Orphaned
        yield example


def _sync(paths: Iterable[Path]) -> int:
    """Brings files to the disk and returns their size together."""
    size = 0
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            size += os.fstat(file.fileno()).st_size
    return size


def _move(source: Path, target: Path, files: Iterable[str]) -> None:
    """Renames files, given by relative names, into place and syncs the folders they come to."""
    folders = set()
    for file in files:
        place = target / file
        if place.parent not in folders:
            place.parent.mkdir(parents=True, exist_ok=True)
            folders.add(place.parent)
        os.replace(source / file, place)
    for folder in folders:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_whole(path: Path, text: str) -> None:
    scratch = path.parent / SCRATCH
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / path.name).write_text(text, encoding="utf-8")
    _sync([scratch / path.name])
    _move(scratch, path.parent, [path.name])


def _finish(job: Job, identity: dict[str, Any], shards: list[Written]) -> None:
    """Writes the closing files and the manifest, and takes the notes away."""
    format, scratch = FORMATS[job.format], job.folder / SCRATCH / "closing"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    format.close(job.settings, job.seed, shards, scratch)
    files = sorted(str(p.relative_to(scratch)) for p in scratch.rglob("*") if p.is_file())
    others = [
        {"file": file, "bytes": _sync([scratch / file]), "sha256": digest([scratch / file])}
        for file in files
    ]
    _move(scratch, job.folder, files)
    entries = [
        dataclasses.asdict(w.shard)
        | {"pattern": format.pattern(w.shard), "bytes": w.bytes, "sha256": w.sha256}
        for w in shards
    ]
    manifest = {**identity, "shards": entries, "files": others}
    _write_whole(job.folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
