"""How a model's arrays lie on the mesh that is in force where it is traced, see `common.mesh`.

XLA places what it is not told about; it is told where its own choice would bring the whole of an
array to every device. Without a mesh, nothing happens here.
"""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec as P

from common.array_types import Array
from common.errors import UserError
from common.mesh import BATCH, axis_size, is_spread


def spread(x: Array, layout: str, frequency: str = "h") -> Array:
    """Asks for an array to lie spread over the mesh.

    Args:
        x: any array.
        layout: a name for each axis, as in 't b h f c'. 'b' goes over the axes of the batch, 't'
            over 'time', any other name over none.
        frequency: the name that goes over the mesh axis 'frequency'.

    Axes that the devices do not divide are not spread.
    """
    if not is_spread():
        return x
    return jax.lax.with_sharding_constraint(x, _places(x, layout, frequency))


def on_each_device(function: Callable[[Array], Array], x: Array, layout: str) -> Array:
    """Applies a function to what each device has of an array, channels over 'frequency'.

    XLA brings the whole array to every device for an FFT, along whichever axes that is.

    Args:
        function: takes an array of the layout to one of the same; acts on each entry of the axes
            'b', 't' and 'c' by itself.
        x: the array.
        layout: see `spread`.
    """
    if not is_spread():
        return function(x)
    places = _places(x, layout, "c")
    return jax.shard_map(function, in_specs=places, out_specs=places)(x)


def require_even(axis: str, size: int, what: str) -> None:
    """Checks that the devices along a mesh axis divide a number.

    Raises:
        UserError: they do not.
    """
    if size % axis_size(axis):
        raise UserError(
            f"config.mesh.{axis} is {axis_size(axis)}; expected a divisor of the {size} {what}"
        )


def _places(x: Array, layout: str, frequency: str) -> P:
    names = {"b": BATCH, "t": ("time",), frequency: ("frequency",)}
    places = []
    for size, name in zip(x.shape, layout.split(), strict=True):
        axes = names.get(name, ())
        devices = 1
        for axis in axes:
            devices *= axis_size(axis)
        places.append(axes if axes and size % devices == 0 else None)
    return P(*places)
