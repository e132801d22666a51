"""What XLA counts of a training step: operations, bytes, temporary memory.

The step is traced as on an accelerator (no foreign functions, no frames one after the other) and
its loop over time is unrolled, since XLA counts the body of a loop once; it is compiled for the
machine at hand. So it takes a minute for eight steps, and small sizes.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import optax

from common.compiled import temporary_bytes
from experiments.benchmarks.image_step import make_step
from experiments.plans.workloads import Workload

FITTED = (
    Workload("2 images, 32 pixels, width 16", 2, 32, 16, 4, video=False, kernel=7),
    Workload("2 videos of 4 frames, 32 pixels, width 16", 2, 32, 16, 4, video=True, kernel=7),
    Workload("4 images, 64 pixels, width 32", 4, 64, 32, 8, video=False),
    Workload("2 videos of 4 frames, 64 pixels, width 32", 2, 64, 32, 4, video=True),
    Workload("8 images, 32 pixels, width 32", 8, 32, 32, 8, video=False, kernel=7),
    Workload("1 image, 64 pixels, width 64", 1, 64, 64, 4, video=False),
)
HELD_OUT = (
    Workload("2 videos of 8 frames, 64 pixels, width 16", 2, 64, 16, 8, video=True),
    Workload("4 images, 64 pixels, width 64", 4, 64, 64, 6, video=False),
    Workload("3 videos of 6 frames, 48 pixels, width 24", 3, 48, 24, 6, video=True, kernel=11),
    Workload("1 image, 128 pixels, width 32", 1, 128, 32, 4, video=False),
)
"""Steps that are counted: those that the cost model's factors are fitted to, and others."""


class Count(NamedTuple):
    """Cost of one training step.

    Attributes:
        operations: floating-point operations.
        moved: bytes that its operations read and write, each fusion being one.
        temporary: most bytes held at once beside arguments and results.
    """

    operations: float
    moved: float
    temporary: float


def count(work: Workload) -> Count:
    """Compiles a training step and returns XLA's account of it."""
    step, shapes = training_step(work)
    with as_on_an_accelerator():
        compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*shapes).compile()
    counts: Any = compiled.cost_analysis()
    if not counts:
        raise NotImplementedError(f"no cost analysis on {jax.default_backend()}")
    return Count(counts["flops"], counts["bytes accessed"], float(temporary_bytes(compiled)))


@contextlib.contextmanager
def as_on_an_accelerator(unrolled: bool = True) -> Iterator[None]:
    """Lets what is traced inside take the ways of a GPU, with loops over time unrolled or not."""
    loop = partial(jax.lax.fori_loop, unroll=True) if unrolled else jax.lax.fori_loop
    with (
        mock.patch.object(jax, "default_backend", lambda: "gpu"),
        mock.patch.object(jax.lax, "fori_loop", loop),
    ):
        yield


def training_step(work: Workload) -> tuple[Any, tuple[Any, ...]]:
    """Returns a step (parameters, optimizer state, images, labels) and the shapes of its arguments.

    The update is by AdamW with clipping.
    """
    model = work.model()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    time = (work.steps,) if work.video else ()
    images = jax.ShapeDtypeStruct((work.batch, *time, work.size, work.size, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((work.batch,), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    state = jax.eval_shape(optimizer.init, params)
    return make_step(model, optimizer), (params, state, images, labels)
