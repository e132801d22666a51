"""Times the Pathfinder generator, its writers and readers, and a training step beside them.

    python -m experiments.benchmarks.data [--quick] [--out=FILE]

The public generator is not part of this project; its processor time per image (section 8 of the
published measurements: one process, 300 pixels, lengths 6, 9 and 14) stands in PUBLIC_CPU_MS.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from common.data.pathfinder import PathfinderSettings, draw_images
from common.data.pathfinder.export import export
from common.data.pathfinder.sources import open_sources
from common.data.pipeline import Source, training_batches
from common.train import make_init, make_optimizer, make_train_step, metric_names
from experiments.benchmarks.timing import write_json
from experiments.cli import load_config
from experiments.tasks.pathfinder import make_task

PUBLIC_CPU_MS = {6: 70.0, 9: 110.0, 14: 180.0}
FORMATS = {"array_record": "tfds", "tfrecord": "tfrecord", "png": "folder"}
CONFIG = "experiments/configs/pathfinder.py"
Row = dict[str, Any]


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Times data against training.")
    parser.add_argument("--quick", action="store_true", help="fewer images")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/data.json"))
    flags = parser.parse_args()
    count = 200 if flags.quick else 2_000
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        for row in itertools.chain(
            generation(count), writing(Path(scratch), count), reading(Path(scratch), count)
        ):
            rows.append(row)
            values = (f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in row.items())
            print("  ".join(values), flush=True)
    write_json(flags.out, rows)
    return 0


def generation(count: int) -> Iterator[Row]:
    """Times `draw_images` on one core."""
    for layout, size, length in itertools.product(
        ("reference", "matched"), (300, 128), (6, 9, 14, 20, 25)
    ):
        settings = PathfinderSettings(image_size=size, contour_length=length, layout=layout)
        draw_images(settings, 0, 0, 2)
        begin = time.process_time()
        for start in range(0, count, 100):
            draw_images(settings, 0, start, 100)
        cpu_ms = 1e3 * (time.process_time() - begin) / count
        row = {"what": "generate", "layout": layout, "size": size, "length": length}
        row |= {"cpu_ms_per_image": cpu_ms}
        if size == 300 and layout == "reference" and length in PUBLIC_CPU_MS:
            row["public_cpu_ms_over_this"] = PUBLIC_CPU_MS[length] / cpu_ms
        yield row


def writing(scratch: Path, count: int) -> Iterator[Row]:
    """Times exports with one worker process and with two; images of 128 pixels, length 14."""
    settings = PathfinderSettings(image_size=128, contour_length=14)
    for form, workers in itertools.product(FORMATS, (1, 2)):
        folder = scratch / f"{form}_{workers}"
        counts = {"train": 4 * count, "validation": 100, "test": 100}
        begin = time.perf_counter()
        export(settings, counts, folder, form, workers=workers)
        per_second = sum(counts.values()) / (time.perf_counter() - begin)
        yield {
            "what": "export",
            "format": form,
            "workers": workers,
            "images_per_second": per_second,
        }


def reading(scratch: Path, count: int) -> Iterator[Row]:
    """Times shuffled batches of every source, and a training step on the default's images."""
    counts = {"train": -1, "validation": 100, "test": 100}
    for form, source in FORMATS.items():
        (path,) = _data_folders(scratch / f"{form}_1", form)
        images = open_sources(source, path, counts, 128, 0)["train"]
        yield {"what": "read", "source": source, "size": 128} | _rate(images, 32, count)
    overrides = {"data.train_count": 4 * count, "data.cache": str(scratch)}
    config = load_config(CONFIG, overrides)
    task = make_task(config)
    size = config.data.image_size
    yield {"what": "read", "source": "generate", "size": size} | _rate(
        task.train_source, config.train.batch_size, 4 * count
    )
    optimizer, _ = make_optimizer(config.optim, config.train.steps)
    step = make_train_step(task, optimizer, config.train.log_every)
    batches = training_batches(task.train_source, config.train.batch_size, 0)
    batch = next(batches)
    state = make_init(task, optimizer, metric_names(task, batch))(jax.random.key(0))
    state = jax.block_until_ready(step(state, batch))
    steps = max(10, count // config.train.batch_size)
    begin = time.perf_counter()
    for batch in itertools.islice(batches, steps):
        state = step(state, batch)
    jax.block_until_ready(state)
    rate = steps * config.train.batch_size / (time.perf_counter() - begin)
    batches.close()
    yield {"what": "training step", "size": size, "images_per_second": rate}


def _data_folders(folder: Path, form: str) -> list[Path]:
    return list(folder.glob({"array_record": "*/*/*/", "tfrecord": "*/", "png": "*/"}[form])) or [
        folder
    ]


def _rate(source: Source, batch_size: int, count: int) -> dict[str, float]:
    batches = training_batches(source, batch_size, 0)
    next(batches)
    begin = time.perf_counter()
    read = sum(len(batch["label"]) for batch in itertools.islice(batches, count // batch_size))
    rate = read / (time.perf_counter() - begin)
    batches.close()
    return {"images_per_second": rate}


if __name__ == "__main__":
    sys.exit(main())
