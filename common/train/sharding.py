"""Where the arrays of a run lie on its mesh: state, batches, and what is computed with them."""

import contextlib
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from common.array_types import PyTree
from common.errors import UserError
from common.mesh import AXES, BATCH, BY_EXAMPLES, make_mesh

SMALLEST = 2**12
"""Number of entries from which an array of the state is spread: less is sooner sent than cut."""


class Sharding:
    """Says where the arrays of a run lie.

    Args:
        mesh: the devices of the run, of all processes.
    """

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self.batch = NamedSharding(mesh, P(BATCH))
        self.everywhere = (
            NamedSharding(mesh, P()) if mesh.size > 1 else SingleDeviceSharding(mesh.devices.item())
        )

    @property
    def batch_devices(self) -> int:
        """Number of parts that a batch is cut into."""
        return math.prod(self.mesh.shape[name] for name in BATCH)

    def in_force(self) -> contextlib.AbstractContextManager:
        """Lets what is traced inside know the mesh, if it has more than one device."""
        return jax.set_mesh(self.mesh) if self.mesh.size > 1 else contextlib.nullcontext()

    def of_state(self, shapes: PyTree) -> PyTree:
        """Returns the sharding of each array of a state.

        Over 'fsdp' goes the largest axis of an array that the devices divide; of equals the last.
        """
        return jax.tree.map(self._of_leaf, shapes)

    def _of_leaf(self, leaf: Any) -> jax.sharding.Sharding:
        devices = self.mesh.shape["fsdp"]
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        if devices == 1 or leaf.size < SMALLEST or is_key:
            return self.everywhere
        fitting = [axis for axis, size in enumerate(leaf.shape) if size % devices == 0]
        if not fitting:
            return self.everywhere
        widest = max(fitting, key=lambda axis: (leaf.shape[axis], axis))
        return NamedSharding(self.mesh, P(*(None,) * widest, "fsdp"))

    @functools.cached_property
    def share(self) -> tuple[int, int]:
        """Which part of every batch this process reads: (number, of how many).

        Processes whose devices differ in time or frequency alone read the same part. Where a mesh
        gives a process examples that do not lie side by side, it reads the whole batch.
        """
        count = self.batch_devices
        places = self.batch.addressable_devices_indices_map((count,)).values()
        rows = sorted({row for place in places if place for row in range(*place[0].indices(count))})
        number, rest = divmod(rows[0], len(rows))
        if rest or count % len(rows) or rows[-1] - rows[0] >= len(rows):
            return 0, 1
        return number, count // len(rows)

    def place(self, part: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Returns a batch on the devices of all processes, from what this one has read of it."""
        if self.mesh.size == 1:
            return dict(part)
        parts = self.share[1]
        return {
            name: jax.make_array_from_process_local_data(
                self.batch, value, (parts * len(value), *value.shape[1:])
            )
            for name, value in part.items()
        }

    def check_batch(self, batch_size: int, parts: int) -> None:
        """Checks that the devices divide a batch, also where it is taken in parts.

        Raises:
            UserError: they do not.
        """
        if batch_size % (self.batch_devices * parts):
            named = " and ".join(f"{name} {self.mesh.shape[name]}" for name in BATCH)
            taken = f", taken in {parts} parts" if parts > 1 else ""
            raise UserError(
                f"config.train.batch_size is {batch_size}{taken}; expected a multiple of the "
                f"{self.batch_devices * parts} that config.mesh ({named}) divides it into"
            )

    def rounded_up(self, batch_size: int) -> int:
        """Returns the size of a batch for scoring, which padding fits to the devices."""
        return -(-batch_size // self.batch_devices) * self.batch_devices


def make_run_mesh(config: ConfigDict) -> Mesh:
    """Returns the mesh of a run, which divides its batches.

    Args:
        config: see `fit`; without `mesh` the examples go over all devices.

    Raises:
        UserError: the number of devices or the size of a batch does not fit.
    """
    mesh = make_mesh(config.get("mesh", BY_EXAMPLES))
    Sharding(mesh).check_batch(config.train.batch_size, config.train.get("accumulate", 1))
    return mesh


def check_axes(mesh: Mesh, spreads: tuple[str, ...]) -> None:
    """Checks that a model makes use of every axis that has devices.

    Args:
        mesh: the devices.
        spreads: the axes besides those of the batch that the model is spread over.

    Raises:
        UserError: one has several devices and is none of these.
    """
    for name in AXES:
        if name not in (*BATCH, *spreads) and mesh.shape[name] > 1:
            raise UserError(
                f"config.mesh.{name} is {mesh.shape[name]}, but this model is not spread over "
                f"{name}; expected 1"
            )
