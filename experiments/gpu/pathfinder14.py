"""Trains Pathfinder-14 at 128 pixels for twenty minutes of a GPU, in commands of ten.

    python -m experiments.gpu.pathfinder14                     # draws images, trains for a while
    python -m experiments.gpu.pathfinder14                     # goes on, scores, writes JSON
    python -m experiments.gpu.pathfinder14 --layout=matched    # images without a shortcut

The config is `experiments/configs/pathfinder.py:paper` with as many steps as fit: the first command
times some steps and settles the number, since the learning rate falls to its end. The images of the
layout 'reference' are those of the public generator's settings, comparable with published numbers:
88.5 % (public notebook, 224 pixels), 89 % (people), 90.8 % (best public model, 128 pixels). There
the distance of the dots alone gives some 61 %. 'matched' has no such shortcut and no published
number. Either run is scored on test images of both layouts, 95 % Wilson intervals.

The runs are of the project's one training loop: stopped at the end of a command as by SIGTERM, they
go on from a checkpoint of that step. Images are drawn by a thread a core, in compiled code that
holds no lock.
"""

import argparse
import dataclasses
import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from common.data.pathfinder import load_or_generate
from common.data.pipeline import training_batches
from common.train import Preempted, evaluate, fit, restore_params
from common.train.parts import RunParts
from experiments.cli import load_config
from experiments.gpu.bare import without_native_code
from experiments.gpu.records import on_gpu, peak_bytes, write_record
from experiments.tasks.pathfinder import PathfinderTask, make_task

CONFIG = Path(__file__).parent.parent / "configs" / "pathfinder.py"
LAYOUTS = ("reference", "matched")
GOALS = {"public notebook": 0.885, "people": 0.89, "best public model": 0.908}
BUDGET_S, COMMAND_S = 20 * 60.0, 10 * 60.0
RESERVE_S = 75.0
"""Of a command's time, for imports, images, compilation and a last checkpoint."""

TIMED_STEPS = 20
SHRUNKEN = {
    "model.embed_dim": 8, "model.kernel_size": 5, "model.seq_len": 4,
    "data.contour_length": 3, "data.window": 75.0, "data.padding": 6.0, "data.distractors": 2,
    "data.seed_distance": 12.0, "data.image_size": 32,
    "data.train_count": 64, "data.validation_count": 16, "data.test_count": 16,
    "train.batch_size": 8, "train.eval_batch_size": 8, "train.log_every": 2,
    "train.eval_every": 4, "train.checkpoint_every": 2, "optim.warmup_steps": 1,
}  # fmt: skip
SHRUNKEN_STEPS = 6


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description="Trains Pathfinder-14 for twenty minutes.")
    parser.add_argument("--layout", choices=LAYOUTS, default=LAYOUTS[0])
    parser.add_argument("--workdir", type=Path, help="default: runs/gpu/pathfinder14-LAYOUT")
    parser.add_argument("--data", default="data", help="folder of generated images")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args(argv)
    workdir = flags.workdir or Path(f"runs/gpu/pathfinder14-{flags.layout}")
    with without_native_code():
        config = base_config(flags.layout, flags.data, flags.seed)
        task = make_task(config)
        drawn = time.monotonic() - begin
        settle_steps(config, task, workdir)
        try:
            with StopAfter(begin + COMMAND_S - RESERVE_S / 2):
                result = fit(task, config, workdir)
        except Preempted as stop:
            print(f"{stop}; the same command goes on")
            return 0
        record = {"layout": flags.layout, "goals": GOALS, "images_s": drawn}
        record |= {"result": result, "test": scores(config, workdir, task)}
    steps = {"steps": config.train.steps, "batch_size": config.train.batch_size}
    write_record(workdir / "record.json", **record, **steps, peak_bytes=peak_bytes())
    return 0


def base_config(layout: str, cache: str, seed: int) -> ConfigDict:
    """Returns the config before the number of steps is settled."""
    overrides: dict[str, Any] = {} if on_gpu() else dict(SHRUNKEN)
    overrides |= {"data.layout": layout, "data.cache": cache, "seed": seed, "data.seed": seed}
    return load_config(f"{CONFIG}:paper", overrides)


def settle_steps(config: ConfigDict, task: PathfinderTask, workdir: Path) -> None:
    """Sets the number of steps to that which fits the budget, the same in every command."""
    file = workdir / "steps.json"
    if not file.exists():
        plan = {"steps": SHRUNKEN_STEPS}
        if on_gpu():
            seconds = step_seconds(config, task)
            left = BUDGET_S - 2 * RESERVE_S - evaluation_seconds(config, seconds)
            plan = {"steps": math.floor(left / seconds), "step_seconds": seconds}
        workdir.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(plan) + "\n")
    config.train.steps = json.loads(file.read_text())["steps"]
    print(f"{config.train.steps} steps of {config.train.batch_size} images")


def step_seconds(config: ConfigDict, task: PathfinderTask) -> float:
    """Returns the seconds of a step, data included, after the compilation."""
    parts = RunParts(task, config)
    batches = training_batches(task.train_source, config.train.batch_size, config.seed)
    state = jax.block_until_ready(parts.train_step(parts.initial_state(), next(batches)))
    begin = time.perf_counter()
    for _ in range(TIMED_STEPS):
        state = parts.train_step(state, next(batches))
    jax.block_until_ready(state)
    batches.close()
    return (time.perf_counter() - begin) / TIMED_STEPS


def evaluation_seconds(config: ConfigDict, seconds: float) -> float:
    """Returns about how long scoring takes in all: a third of a step for as many images."""
    times = math.ceil(BUDGET_S / seconds / config.train.eval_every)
    images = times * config.data.validation_count + 2 * config.data.test_count
    return images / config.train.batch_size * seconds / 3


class StopAfter:
    """Sends this process SIGTERM at a time of the monotonic clock, inside the `with`."""

    def __init__(self, moment: float):
        left = max(0.0, moment - time.monotonic())
        self._timer = threading.Timer(left, os.kill, (os.getpid(), signal.SIGTERM))
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()


def scores(config: ConfigDict, workdir: Path, task: PathfinderTask) -> dict[str, Any]:
    """Returns the best checkpoint's scores on test images of both layouts."""
    step, params = restore_params(task, config, workdir)
    settings, data = task.eval_sources["test"].settings, config.data
    found: dict[str, Any] = {"step": step}
    for layout in LAYOUTS:
        other = dataclasses.replace(settings, layout=layout)
        images = load_or_generate(other, "test", data.test_count, data.seed, data.cache)
        found[layout] = evaluate(task, params, images, config.train.eval_batch_size)
        print(f"{layout}: test accuracy {found[layout]['accuracy']:.1%}")
    return found


if __name__ == "__main__":
    sys.exit(main())
