"""Times training steps on a GPU beside the public code's published times.

    python -m experiments.gpu.throughput [--out=FILE]

Published (drewlinsley/CSSM, benchmarks/results, May 2026): forward, and forward and backward, of
SimpleCSSM with one video on an NVIDIA B200, maps of 16 x 16 and width 256, for the models
'no_gate', 'gated' and 'gdn'; none for 'transformer'. Ratios are the published time over the time
here; a B200 has 8 TB/s of memory bandwidth and an H200 4.8, which 'ratio at equal bandwidth' takes
into account where the device is known. The public models of May are not those of January, which
are here: 'no_gate' has an output projection that 'standard' lacks, 'gated' and 'gdn' have other
projections and short convolutions. Beside each other they show which size a time has, no more.

Pathfinder steps are of the size of `experiments/configs/pathfinder.py:paper`, for every model and
dtype. A run of the public code takes some 80 minutes (median, B200).
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from common.array_types import Array, PyTree
from common.train.state import parameter_count
from experiments.benchmarks.image_step import make_step
from experiments.benchmarks.timing import Compiled, measure_in_turn, print_table
from experiments.gpu.bare import without_native_code
from experiments.gpu.records import on_gpu, peak_bytes, write_record
from experiments.models.vision import make_model

OUT = Path("runs/gpu/throughput.json")
REPEATS = 9
B200_BANDWIDTH = 8.0e12
BANDWIDTHS = {"H100": 3.35e12, "H200": 4.8e12, "B200": B200_BANDWIDTH}
"""Bytes a second by data sheet, by what a device's name contains."""


class Published(NamedTuple):
    """Published times of one video, milliseconds."""

    forward: float
    training: float


PUBLISHED = {
    ("standard", 8): Published(0.135, 0.337),
    ("standard", 128): Published(0.363, 0.856),
    ("standard", 1024): Published(1.99, 4.73),
    ("gated", 8): Published(0.205, 0.693),
    ("gated", 128): Published(0.897, 2.38),
    ("gated", 1024): Published(5.67, 15.0),
    ("gdn", 8): Published(0.341, 1.16),
    ("gdn", 128): Published(2.56, 9.13),
    ("gdn", 1024): Published(18.0, 62.5),
}
"""By model here ('standard' beside 'no_gate') and number of frames."""

MODELS = ("transformer", "gated", "gdn", "standard")


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Times training steps beside published times.")
    parser.add_argument("--out", type=Path, default=OUT)
    flags = parser.parse_args(argv)
    with without_native_code():
        videos = [time_video(model, frames) for model, frames in video_cases()]
        images = [time_images(model, dtype) for model, dtype in image_cases()]
    print_table(videos)
    print_table(images)
    write_record(flags.out, videos=videos, images=images, peak_bytes=peak_bytes())
    return 0


def video_cases() -> list[tuple[str, int]]:
    """Returns models and numbers of frames."""
    lengths = (8, 128, 1024) if on_gpu() else (4,)
    return [(model, frames) for frames in lengths for model in MODELS]


def image_cases() -> list[tuple[str, str]]:
    """Returns models and dtypes of the Pathfinder steps."""
    if not on_gpu():
        return [("transformer", "bfloat16")]
    return [(model, dtype) for model in MODELS for dtype in ("float32", "bfloat16")]


def time_video(model: str, frames: int) -> dict[str, Any]:
    """Times one model on one video, with maps of 16 x 16 and width 256."""
    size, width = (64, 256) if on_gpu() else (16, 8)
    step = Step(model, "float32", width, frames, (1, frames, size, size, 3))
    row: dict[str, Any] = {"model": model, "frames": frames, "parameters": step.parameters}
    passes = {"forward": step.forward, "training": step.gradient}
    row |= timed({name: (function, step.arguments[::2]) for name, function in passes.items()})
    published = PUBLISHED.get((model, frames)) if on_gpu() else None
    for name in passes if published and "unavailable" not in row else ():
        row[f"{name}_published_ms"] = getattr(published, name)
        ratio = getattr(published, name) / row[f"{name}_ms"]
        row[f"{name}_ratio"] = ratio
        if (bandwidth := bandwidth_here()) is not None:
            row[f"{name}_ratio_at_equal_bandwidth"] = ratio * B200_BANDWIDTH / bandwidth
    return row


def time_images(model: str, dtype: str) -> dict[str, Any]:
    """Times a step of Pathfinder-14 at 128 pixels."""
    batch, size, width = (256, 128, 64) if on_gpu() else (2, 32, 8)
    step = Step(model, dtype, width, 8, (batch, size, size, 3))
    row: dict[str, Any] = {"model": model, "dtype": dtype, "batch": batch}
    row |= timed({"step": (step.update, step.arguments)})
    if "unavailable" not in row:
        row["images_per_second"] = 1e3 * batch / row["step_ms"]
    return row


def timed(functions: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]) -> dict[str, Any]:
    """Returns median wall times in milliseconds and temporary memory, or why there are none."""
    try:
        compiled = [Compiled(function, *arguments) for function, arguments in functions.values()]
        found = measure_in_turn(compiled, REPEATS)
    except Exception as error:  # too little memory is a result too
        return {"unavailable": (str(error).splitlines() or ["?"])[0][:200]}
    times = {f"{n}_ms": result.wall_ms for n, result in zip(functions, found, strict=True)}
    compile_s = sum(result.compile_s for result in found)
    return times | {"temporary_mb": found[-1].temporary_mb, "compile_s": compile_s}


def bandwidth_here() -> float | None:
    """Returns the memory bandwidth of this device by its data sheet, or None."""
    kind = jax.devices()[0].device_kind
    return next((rate for name, rate in BANDWIDTHS.items() if name in kind), None)


class Step:
    """A training step of a model, and the parts of one.

    Args:
        model: name of the block.
        dtype: compute dtype.
        width: channels.
        steps: time steps.
        shape: of the images or videos.
    """

    def __init__(self, model: str, dtype: str, width: int, steps: int, shape: tuple[int, ...]):
        fields = {"name": "simple_cssm", "cssm_type": model, "embed_dim": width, "seq_len": steps}
        fields |= {"kernel_size": 11, "dtype": dtype}
        self.model = make_model(ConfigDict(fields))
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-4))
        images = np.random.default_rng(0).standard_normal(shape, np.float32)
        params = jax.jit(self.model.init)(jax.random.key(0), images)["params"]
        self.parameters = parameter_count(params)
        labels = jnp.arange(shape[0]) % 2
        self.arguments = (params, jax.jit(optimizer.init)(params), jnp.asarray(images), labels)
        self.update = make_step(self.model, optimizer)

    def forward(self, params: PyTree, images: Array) -> Any:
        """Returns the logits."""
        return self.model.apply({"params": params}, images)

    def gradient(self, params: PyTree, images: Array) -> Any:
        """Returns the logits' sum and its gradient."""
        return jax.value_and_grad(lambda p: self.forward(p, images).sum())(params)


if __name__ == "__main__":
    sys.exit(main())
