"""How a model's arrays lie on the mesh that is in force where it is traced, see `common.mesh`.

XLA places what it is not told about; it is told where its own choice would bring the whole of an
array to every device. Without a mesh, nothing happens here.

A layout names the axes of an array, as 't b h f c' does. 'b' goes over the mesh axes of the batch,
't' over 'time', and over 'frequency' go the rows 'h' of a spectrum, or the channels 'c' where it is
made. Axes that the devices do not divide are not spread.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
from jax.sharding import PartitionSpec as P

from common.array_types import Array, PyTree
from common.errors import UserError
from common.kernels.arrays import equally_varying
from common.mesh import BATCH, axis_size, is_spread

Axes = Mapping[str, tuple[str, ...]]

BY_ROWS: Axes = {"b": BATCH, "t": ("time",), "h": ("frequency",)}
BY_CHANNELS: Axes = {"b": BATCH, "t": ("time",), "c": ("frequency",)}


def spread(x: Array, layout: str) -> Array:
    """Asks for an array to lie spread over the mesh, rows over 'frequency'.

    Args:
        x: any array.
        layout: the names of its axes.
    """
    if not is_spread():
        return x
    return jax.lax.with_sharding_constraint(x, places(x, layout.split(), BY_ROWS))


def on_each_device(function: Callable[..., Array], x: Array, layout: str, *shared: PyTree) -> Array:
    """Applies a function to what each device has of an array, channels over 'frequency'.

    For what XLA would do on the whole of the array on every device, as it does with an FFT.

    Args:
        function: takes an array of the layout, and what is shared, to one of the same layout; acts
            on each entry of the axes 'b', 't' and 'c' by itself.
        x: the array.
        layout: the names of its axes.
        *shared: arrays that every device has the whole of.
    """
    if not is_spread():
        return function(x, *shared)
    here = places(x, layout.split(), BY_CHANNELS)

    def alone(*arguments: PyTree) -> Array:
        return function(*equally_varying(arguments))

    specs = (here, *(P() for _ in shared))
    return jax.shard_map(alone, in_specs=specs, out_specs=here)(x, *shared)


def require_even(axis: str, size: int, what: str) -> None:
    """Checks that the devices along a mesh axis divide a number.

    Raises:
        UserError: they do not.
    """
    if size % axis_size(axis):
        raise UserError(
            f"config.mesh.{axis} is {axis_size(axis)}; expected a divisor of the {size} {what}"
        )


def places(x: Array | jax.ShapeDtypeStruct, names: Sequence[str], axes: Axes) -> P:
    """Returns the mesh axes that each axis of an array goes over.

    Args:
        x: the array.
        names: of its axes.
        axes: the mesh axes of a name; none of those that are left out.
    """

    def of_axis(size: int, name: str) -> tuple[str, ...] | None:
        over = tuple(axis for axis in axes.get(name, ()) if axis_size(axis) > 1)
        return over if over and size % math.prod(map(axis_size, over)) == 0 else None

    return P(*map(of_axis, x.shape, names))
