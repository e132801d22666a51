"""The mesh of devices that a run is spread over.

Its axes, each of one device where nothing else is said:

    data        examples of a batch
    fsdp        examples too, and with them the parameters and the optimizer's state
    time        steps of the recurrence, and frames of a video
    frequency   rows of the spectra, channels of the maps

XLA divides the work by where the arrays lie; what the models say of it themselves is in
`common.kernels.spread`. The numbers are those of one device up to rounding.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from common.errors import UserError

AXES = ("data", "fsdp", "time", "frequency")
BATCH = ("data", "fsdp")
"""The axes that examples are spread over."""

BY_EXAMPLES = {"data": -1}
"""The mesh of a run that says nothing else: the examples over all devices."""


def make_mesh(sizes: Mapping[str, int]) -> Mesh:
    """Returns the mesh of a config.

    Args:
        sizes: number of devices along each axis, 1 for what is not named. One of them may be -1,
            for all devices that the others leave. Where the sizes ask for fewer devices than a
            single process has, it takes the first of them.

    Raises:
        UserError: an unknown axis, a size that is neither -1 nor positive, or sizes that the number
            of devices does not fit.
    """
    if unknown := [name for name in sizes if name not in AXES]:
        raise UserError(f"config.mesh.{unknown[0]}: no such axis; expected {', '.join(AXES)}")
    shape = {name: sizes.get(name, 1) for name in AXES}
    if wrong := [name for name, size in shape.items() if size < 1 and size != -1]:
        raise UserError(
            f"config.mesh.{wrong[0]} is {shape[wrong[0]]}, expected 1 or more, or -1 for all "
            "devices that are left"
        )
    devices = available_devices()
    shape = _without_rest(shape, len(devices))
    needed = math.prod(shape.values())
    if needed > len(devices) or (needed < len(devices) and jax.process_count() > 1):
        product = " x ".join(f"{name} {size}" for name, size in shape.items() if size > 1)
        raise UserError(
            f"config.mesh ({product or 'data 1'}) asks for {needed} devices, and there are "
            f"{len(devices)}"
        )
    return jax.make_mesh(
        tuple(shape.values()), AXES, (AxisType.Auto,) * len(AXES), devices=devices[:needed]
    )


def one_device() -> Mesh:
    """Returns a mesh of one device, the first of this process."""
    one = (1,) * len(AXES)
    return jax.make_mesh(one, AXES, (AxisType.Auto,) * len(AXES), devices=jax.local_devices()[:1])


def available_devices() -> list[Any]:
    """Returns the devices of all processes."""
    return jax.devices()


def axis_size(name: str) -> int:
    """Returns along how many devices of the mesh in force an axis goes; 1 where there is none."""
    return _axes().get(name, 1)


def is_spread() -> bool:
    """Tells whether what is traced now is spread over several devices."""
    return math.prod(_axes().values()) > 1


def _axes() -> dict[str, int]:
    """Returns the axes of the mesh in force that XLA spreads arrays over, and their sizes.

    Inside `shard_map` these are what it leaves of them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return {name: mesh.shape[name] for name in mesh.axis_names if name not in mesh.manual_axes}


def _without_rest(shape: dict[str, int], devices: int) -> dict[str, int]:
    """Puts the number of devices that are left in the place of -1."""
    rest = [name for name, size in shape.items() if size == -1]
    if len(rest) > 1:
        raise UserError(f"config.mesh.{rest[1]} is -1, but so is config.mesh.{rest[0]}")
    if not rest:
        return shape
    fixed = {name: size for name, size in shape.items() if size != -1}
    taken = math.prod(fixed.values())
    if devices % taken:
        named = ", ".join(f"{name} {size}" for name, size in fixed.items() if size > 1)
        raise UserError(
            f"config.mesh: {taken} devices ({named}) do not divide the {devices} that there are"
        )
    return shape | {rest[0]: devices // taken}
