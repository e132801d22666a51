"""Times a training step of every block variant and baseline.

    python -m experiments.benchmarks.cssm_step [--quick] [--cases=i_video,ii_still] [--models=vit]

A step is value_and_grad of the cross-entropy and an update by AdamW, jitted. Every row is measured
in a process of its own, so that its peak memory is its own: interpreter, libraries and compiler
included. GFLOPs are XLA's count of the step as it is lowered, with the bodies of scans taken as
often as they run, which XLA's count does not. FFTs count as XLA counts them.

The public code (drewlinsley/CSSM at 5375fae, on two x86-64 cores) stands in PUBLIC. To compare
with it on another machine, its processor time is scaled by that of 'V1' of
`experiments.benchmarks.scan`, timed in the same process as the step and in turn with it:

    ratio = public CPU time * (V1 here / V1 there) / CPU time here
"""

import dataclasses
import math
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from common.analysis import count_flops
from common.kernels.cases import BENCHMARK_CASES
from common.train.state import parameter_count
from cssm.simple import BLOCKS
from experiments.benchmarks.image_step import make_step
from experiments.benchmarks.scan import Problem
from experiments.benchmarks.timing import (
    Compiled,
    measure_in_turn,
    print_table,
    read_flags,
    write_json,
)
from experiments.models.vision import make_model


@dataclasses.dataclass(frozen=True)
class Public:
    """A training step of the public transformer variant, and V1 on the machine it was timed on.

    Attributes:
        cpu_s: processor time of a step, seconds; the lower of two rounds.
        temporary_mb: memory for intermediates by the compiler's account, megabytes.
        peak_rss_mb: peak resident memory of the process, compiler included, megabytes.
        compile_cpu_s: processor time of the compilation, seconds; the lower of two rounds.
        v1_case: the shape V1 is taken at, a case of `common.kernels.cases`.
        v1_cpu_ms: processor time of V1 forward and backward there, milliseconds.
    """

    cpu_s: float
    temporary_mb: float
    peak_rss_mb: float
    compile_cpu_s: float
    v1_case: str
    v1_cpu_ms: float


@dataclasses.dataclass(frozen=True)
class Case:
    """Shapes of a training step.

    Attributes:
        batch: videos or images.
        size: height and width, pixels.
        width: channels of stem and blocks.
        video: whether every step has a frame of its own.
        public: the public code at these shapes, with videos.
    """

    batch: int
    size: int
    width: int
    video: bool
    public: Public


STEPS, KERNEL_SIZE, REPEATS, QUICK_REPEATS = 8, 15, 9, 3
PUBLIC = {
    "i": Public(4.6, 387.0, 3_000.0, 72.0, "S1", 102.8),
    "ii": Public(10.8, 1_490.0, 4_200.0, 72.0, "S2", 382.9),
}
CASES = {
    f"{name}_{form}": Case(*shape, form == "video", PUBLIC[name])
    for name, shape in {"i": (4, 64, 32), "ii": (2, 128, 64)}.items()
    for form in ("video", "still")
}
BLOCK_NAMES = tuple(name for name in BLOCKS if not name.startswith("transformer_read_"))
BASELINES: dict[str, Callable[[int], dict[str, Any]]] = {
    "hgru": lambda width: {
        "embed_dim": width,
        "kernel_size": KERNEL_SIZE,
        "seq_len": STEPS,
        "act": "softplus",
        "pool": "mean",
    },
    "vit": lambda width: {"width": width, "heads": 4, "patch": 8, "depth": 12},
    "resnet": lambda width: {"widths": (width // 2, width, 2 * width), "blocks": 2},
    "conv_net": lambda width: {"widths": (width, width, 2 * width, 2 * width)},
}
STILL_ONLY = ("vit", "resnet", "conv_net")


def main() -> int:
    """Runs the command line."""
    names, chosen, quick, out = read_flags(
        "Times a training step of every model.",
        list(CASES),
        ("i_video", "i_still"),
        "runs/benchmarks/cssm_step.json",
        (*BLOCK_NAMES, *BASELINES),
    )
    rows = []
    for name in names:
        models = [model for model in models_for(CASES[name]) if model in chosen]
        table = [
            measure_apart(name, model, QUICK_REPEATS if quick else REPEATS) for model in models
        ]
        print_table([{k: v for k, v in row.items() if k != "beside_public"} for row in table])
        print_table([row["beside_public"] for row in table if "beside_public" in row])
        rows += table
    write_json(out, rows)
    return 0


def models_for(case: Case) -> tuple[str, ...]:
    """Returns the names of the models that can be timed at a case."""
    return (*BLOCK_NAMES, *(name for name in BASELINES if not case.video or name not in STILL_ONLY))


def measure_apart(case: str, model: str, repeats: int) -> dict[str, Any]:
    """Returns the row of one model, measured in a process of its own."""
    print(f"{case}, {model} ...", file=sys.stderr, flush=True)
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, context) as executor:
            return executor.submit(measure, case, CASES[case], model, repeats).result()
    except BrokenProcessPool:
        return {"case": case, "model": model, "unavailable": "the process was killed"}


def measure(name: str, case: Case, model: str, repeats: int) -> dict[str, Any]:
    """Returns what a training step of one model costs, and where the public code has it, both."""
    step, arguments = training_step(make(model, case.width), case)
    compiled = Compiled(step, *arguments)
    row = {"case": name, "model": model, "parameters": parameter_count(arguments[0])}
    row |= {"peak_rss_mb": peak_rss_mb(), "gflops": count_flops(step, *arguments) / 1e9}
    beside = [compiled]
    if model == "transformer":
        shapes = next(c for c in BENCHMARK_CASES if c.name == case.public.v1_case)
        beside.append(Problem(shapes, backward=True).compiled("V1"))
    mine, *others = measure_in_turn(beside, repeats)
    row |= vars(mine) | {"load": os.getloadavg()[0]}
    for v1 in others:
        row["beside_public"] = compare(name, case.public, row, v1.cpu_ms)
    return row


def make(model: str, width: int) -> nn.Module:
    """Builds a model by its name in the table."""
    config = {"name": model, "dtype": "float32"}
    if model in BASELINES:
        return make_model(ConfigDict(config | BASELINES[model](width)))
    config |= {"name": "simple_cssm", "cssm_type": model, "embed_dim": width}
    return make_model(ConfigDict(config | {"kernel_size": KERNEL_SIZE, "seq_len": STEPS}))


def training_step(model: nn.Module, case: Case) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Returns a step (parameters, optimizer state, images, labels), and arguments for it."""
    optimizer = optax.adamw(1e-3)
    time = (STEPS,) if case.video else ()
    shape = (case.batch, *time, case.size, case.size, 3)
    images = jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)
    labels = jnp.arange(case.batch) % 2
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]

    return make_step(model, optimizer), (params, optimizer.init(params), images, labels)


def compare(name: str, public: Public, row: dict[str, Any], v1_cpu_ms: float) -> dict[str, Any]:
    """Returns how many times less a row takes than the public code, time scaled by V1."""
    slower = v1_cpu_ms / public.v1_cpu_ms
    return {
        "case": name,
        "V1 here, CPU ms": v1_cpu_ms,
        "V1 here / there": slower,
        "CPU time ratio": public.cpu_s * slower / (1e-3 * row["cpu_ms"]),
        "compile time ratio": public.compile_cpu_s * slower / row["compile_cpu_s"],
        "temporary memory ratio": public.temporary_mb / row["temporary_mb"],
        "peak RSS ratio": public.peak_rss_mb / row["peak_rss_mb"],
    }


def peak_rss_mb() -> float:
    """Returns the peak resident memory of this process so far, megabytes; nan where unknown.

    Not `resource.getrusage`: a child begins with its parent's peak there.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    peaks = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1.024e-3 * int(peaks[0]) if peaks else math.nan


if __name__ == "__main__":
    sys.exit(main())
