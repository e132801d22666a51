"""Linear recurrences of a model, on the mesh that is in force where it is traced."""

from typing import Any

import jax

from common.array_types import Array, Inexact, PyTree
from common.kernels.arrays import equally_varying
from common.kernels.scan import Output, States, linear_scan
from common.kernels.scan_sharded import scan_own_block
from common.kernels.spread import BY_ROWS, places, require_even
from common.kernels.transitions import CoupledTransition, GatedInput
from common.mesh import axis_size, is_spread


def spread_linear_scan(
    transition: Inexact[Array, "*b t n n"] | CoupledTransition,
    inputs: Inexact[Array, "*b t n"] | tuple[Array | GatedInput, ...],
    initial: Inexact[Array, "*b n"] | States | None = None,
    *,
    lanes: str = "b h f c",
    output: Output = "all",
) -> Array | States:
    """Solves s_t = M_t s_{t-1} + b_t on several devices; see `linear_scan`.

    Every device scans lanes of its own, without communication. Where the mesh has several devices
    along 'time', each has its part of the steps too (`sharded_linear_scan`).

    Args:
        transition: M_t.
        inputs: b_t.
        initial: the state before the first step; zero where None.
        lanes: names of the lanes' axes, see `common.kernels.spread`.
        output: 'all' states, or the 'last' one.

    Raises:
        UserError: the devices along 'time' do not divide the steps.
    """
    if not is_spread():
        return linear_scan(transition, inputs, initial, output=output)
    coupled = isinstance(transition, CoupledTransition)
    along_time = axis_size("time")
    require_even("time", jax.tree.leaves(transition)[0].shape[0 if coupled else -3], "time steps")
    arguments = (transition, inputs, initial)
    found = jax.eval_shape(lambda *a: linear_scan(*a, output=output), *arguments)

    def where(tree: PyTree, has_time: bool = True) -> PyTree:
        time = ["t"] if has_time else []
        names = [*time, *lanes.split()] if coupled else [*lanes.split(), *time, "n", "n"]
        return jax.tree.map(
            lambda x: places(x, names[-x.ndim :] if coupled else names[: x.ndim], BY_ROWS), tree
        )

    def scan(*arguments: Any) -> Array | States:
        transition, inputs, initial = equally_varying(arguments)
        if along_time == 1:
            return linear_scan(transition, inputs, initial, output=output)
        return scan_own_block(transition, inputs, initial, axis="time", output=output)

    return jax.shard_map(
        scan,
        in_specs=(where(transition), where(inputs), where(initial, has_time=False)),
        out_specs=where(found, has_time=output == "all"),
    )(*arguments)
