"""What a training step needs of the device's memory, and the largest batch that fits."""

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from common.array_types import PyTree
from common.compiled import temporary_bytes
from common.train.state import TrainState
from common.train.task import Batch

USABLE = 0.9
"""Share of the memory that a step may take; the rest is for what else a process holds."""

MOST_TIMES = 2**12
"""Largest batch to look at, as a multiple of the given one."""

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """Memory of a training step on one device, bytes.

    Attributes:
        batch_size: number of examples in the step.
        parameters: of the model.
        optimizer: state of the optimizer.
        batch: the examples.
        temporaries: most that the compiled step holds at once besides: activations, gradients.
        available: of the device; on a CPU of the machine or of the process's control group.
        largest_batch: about how many examples fit, from the needs of this batch, of one twice as
            large, and of the one that would fit by these two.
    """

    batch_size: int
    parameters: int
    optimizer: int
    batch: int
    temporaries: int
    available: int
    largest_batch: int

    def describe(self) -> str:
        """Says it in one line."""
        parts = {name: getattr(self, name) for name in ("parameters", "optimizer", "batch")}
        parts["temporaries"] = self.temporaries
        sizes = ", ".join(f"{name} {format_bytes(size)}" for name, size in parts.items())
        most = self.largest_batch >= MOST_TIMES * self.batch_size
        fits = f"{self.largest_batch:,} and more" if most else f"about {self.largest_batch:,}"
        return (
            f"memory of a step of {self.batch_size} examples: {sizes}; "
            f"of {format_bytes(self.available)} in all, {fits} fit"
        )


def measure_memory(
    train_step: Callable[..., Any], state: TrainState, batch: Batch, batch_size: int
) -> MemoryReport:
    """Compiles a step for this batch and for larger ones, and reads off what it needs.

    Args:
        train_step: the jitted step.
        state: its state; nothing is computed with it.
        batch: its examples, likewise.
        batch_size: their number.

    Raises:
        NotImplementedError: the platform does not tell.
    """
    need = {times: _step_bytes(train_step, state, batch, times) for times in (1, 2)}
    available = available_bytes(jax.tree.leaves(state)[0].devices().pop())
    room = USABLE * available - bytes_on_device(state)
    largest = _crossing(need, room)
    if largest > 2:  # where the memory is at its fullest can be elsewhere in large batches
        need[largest] = _step_bytes(train_step, state, batch, largest)
        if need[largest] > room:
            largest = _crossing(need, room)
    return MemoryReport(
        batch_size,
        bytes_on_device(state.params),
        bytes_on_device(state.opt_state),
        bytes_on_device(batch),
        need[1] - bytes_on_device(batch),
        available,
        batch_size * largest if largest else math.floor(batch_size * max(0, room) / need[1]),
    )


def _step_bytes(train_step: Callable[..., Any], state: TrainState, batch: Batch, times: int) -> int:
    """Returns what a step needs besides its state, for a batch so many times as large."""
    jitted: Any = train_step
    compiled = jitted.lower(state, _repeated(batch, times)).compile()
    return temporary_bytes(compiled) + times * bytes_on_device(batch)


def _crossing(need: dict[int, int], room: float) -> int:
    """Returns how many times a batch fits, by the line through the last two needs.

    The need is the largest of several that grow in proportion, so that a line between two sizes
    lies above it.
    """
    (few, low), (many, high) = sorted(need.items())[-2:]
    slope = max(high - low, 1) / (many - few)
    return max(0, min(MOST_TIMES, few + math.floor((room - low) / slope)))


def _repeated(batch: Batch, times: int) -> Batch:
    """Returns the batch, or the shapes of one so many times as large."""

    def repeat(x: Any) -> jax.ShapeDtypeStruct:
        sharding = getattr(x, "sharding", None)
        return jax.ShapeDtypeStruct((times * x.shape[0], *x.shape[1:]), x.dtype, sharding=sharding)

    return batch if times == 1 else jax.tree.map(repeat, dict(batch))


def bytes_on_device(tree: PyTree) -> int:
    """Returns the bytes of all arrays of a tree that one device holds."""
    return sum(map(_leaf_bytes, jax.tree.leaves(tree)))


def _leaf_bytes(x: Any) -> int:
    shape = x.sharding.shard_shape(x.shape) if isinstance(x, jax.Array) else x.shape
    return math.prod(shape) * x.dtype.itemsize


def available_bytes(device: Any) -> int:
    """Returns the memory of a device; on a CPU that of the machine, or what a container may use."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.exists() else "max"
    return min(machine, int(limit)) if limit.isdecimal() else machine


def format_bytes(size: float) -> str:
    """Formats a number of bytes as '512 B', '6.8 MB' or '24 GB'."""
    units = ("B", "kB", "MB", "GB", "TB")
    power = next((i for i in range(len(units)) if size < 999.5 * 1000**i), len(units) - 1)
    return f"{size / 1000**power:.3g} {units[power]}"
