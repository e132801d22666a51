"""Damaged checkpoints: rows 11 and 12 of the fault table."""

import random
import shutil
from collections import Counter
from pathlib import Path

from common.array_types import PyTree
from common.checkpoints import CheckpointManager, tree_digests
from common.checkpoints.record import read_record
from common.errors import UserError
from common.train.parts import RunParts
from experiments.faults.runs import Run
from experiments.faults.subject import NumberedTask, load
from experiments.tasks.pathfinder import make_task

WAYS = {"flip": 6, "cut": 2, "zero": 2, "delete": 2, "empty": 1}
"""Ways to damage a checkpoint, and how often each is used.

Some harm nothing: Orbax's files hold bytes, and some whole files, that no restore needs.
"""

HOPELESS = ("zero", "delete", "empty")
"""Ways that always cost a checkpoint when put on the file of its arrays."""


def damage(base: Path, times: int, seed: int) -> bool:
    """Damages the newest of a run's checkpoints `times` times, prints what a restore makes of it.

    True if no restore gave other numbers than those saved.
    """
    overrides = {"train.steps": 20, "train.keep_last": 3, "data.cache": str(base / "data")}
    run = Run(base, "whole", overrides)
    run.finish()
    config = load(overrides)
    abstract = RunParts(NumberedTask(make_task(config)), config).abstract_state()
    counts = damage_all(run.checkpoints, base / "damaged", abstract, times, random.Random(seed))
    print(
        f"{times} damaged checkpoints: {counts['same']} restored the same bits, "
        f"{counts['earlier']} fell back with a warning, {counts['silent']} silent wrong values, "
        f"{counts['other']} other failures"
    )
    print("  ways:", ", ".join(f"{counts[way]} {way}" for way in WAYS))
    refused = sum(_refuses(run.checkpoints, base / "damaged", abstract, way) for way in HOPELESS)
    print(f"{len(HOPELESS)} runs with every checkpoint lost: {refused} refused to go on, twice")
    return counts["silent"] + counts["other"] == 0 and refused == len(HOPELESS)


def damage_all(
    source: Path, scratch: Path, abstract: PyTree, times: int, rng: random.Random
) -> Counter[str]:
    """Damages copies of the newest checkpoint in `source`, and restores.

    Args:
        source: Folder with at least two checkpoints.
        scratch: Folder for the copies.
        abstract: Shapes and dtypes of the saved state.
        times: Number of copies.
        rng: Chooses what is damaged and how.

    Returns:
        How often what was restored was the 'same', 'earlier' (with a message that names the lost
        step) or 'silent' (other numbers); 'other' failures; and how often each way was used.
    """
    counts: Counter[str] = Counter()
    for _ in range(times):
        way = rng.choices(list(WAYS), list(WAYS.values()))[0]
        _copy(source, scratch)
        newest = max(int(path.name) for path in scratch.iterdir() if path.name.isdecimal())
        _harm(scratch / str(newest), way, rng)
        counts[way] += 1
        counts[_restored(source, scratch, abstract, newest)] += 1
    return counts


def _restored(source: Path, scratch: Path, abstract: PyTree, newest: int) -> str:
    """Restores as a run does, and says what came of it."""
    said: list[str] = []
    try:
        with CheckpointManager(scratch, 3, 1, "accuracy", tell=said.append) as manager:
            step, state = manager.restore_first(manager.newest_first(), abstract)
    except UserError:
        return "other"
    if tree_digests(state) != read_record(source / str(step)).digests:
        return "silent"
    if step == newest:
        return "same"
    aside = (scratch / "damaged" / str(newest)).is_dir()
    return "earlier" if f"/{newest} is damaged" in " ".join(said) and aside else "other"


def _refuses(source: Path, scratch: Path, abstract: PyTree, way: str) -> bool:
    """Tells whether a restore from damaged checkpoints alone ends in an error, twice."""
    _copy(source, scratch)
    for path in scratch.iterdir():
        _harm(path, way, random.Random(0), largest=True)
    for _ in range(2):
        with CheckpointManager(scratch, 3, 1, "accuracy", tell=lambda text: None) as manager:
            if not manager.has_lost_all():
                try:
                    manager.restore_first(manager.newest_first(), abstract)
                except UserError:
                    continue
                return False
    return True


def _copy(source: Path, scratch: Path) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(source, scratch)


def _harm(folder: Path, way: str, rng: random.Random, largest: bool = False) -> None:
    """Damages one file of a checkpoint, chosen by its bytes for flips; or empties the folder."""
    if way == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
        return
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    sizes = [path.stat().st_size for path in files]
    file = rng.choices(files, sizes if way == "flip" else None)[0]
    file = files[sizes.index(max(sizes))] if largest else file
    content = bytearray(file.read_bytes())
    if way == "delete":
        file.unlink()
    elif way == "cut":
        file.write_bytes(content[: rng.randrange(len(content))])
    elif way == "zero":
        file.write_bytes(bytes(len(content)))
    else:
        bit = rng.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        file.write_bytes(content)
