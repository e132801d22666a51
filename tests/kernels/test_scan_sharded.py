"""The time-sharded scan gives what one device gives, on four and on eight devices."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from common.kernels import linear_scan, sharded_linear_scan
from common.kernels.cases import ScanCase, coupled_arguments, dense_arguments, random_array

DENSE = ScanCase("dense", 16, (2,), 3, "complex64", initial=True)
DENSE_BACK = ScanCase("dense_reverse_last", 8, (), 2, "float32", True, True, "last")
COUPLED = ScanCase("coupled_reverse", 8, (2, 3, 4), 3, "complex64", True, True)
STILL = ScanCase("still_last", 8, (2, 3), 3, "complex64", output="last", constant_drive=True)
LONG = ScanCase("checkpointed", 4 * 136, (2,), 2, "float64", initial=True)
CASES = (DENSE, DENSE_BACK, COUPLED, STILL, LONG)


def mesh_of(devices: int) -> Mesh:
    return Mesh(np.asarray(jax.devices()[:devices]), ("time",))


def states_and_gradients(scan: Any, case: ScanCase, args: Any) -> Any:
    """Runs forward and backward with a random cotangent."""

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(args):
        states, pullback = jax.vjp(scan, *args)
        weights = [
            jnp.asarray(random_array(np.random.default_rng(i), s.shape, str(s.dtype)))
            for i, s in enumerate(jax.tree.leaves(states))
        ]
        return states, pullback(jax.tree.unflatten(jax.tree.structure(states), weights))

    return run(args)


def check(case: ScanCase, devices: int) -> None:
    """Compares with the sequential scan of the same arguments on one device."""
    args = (coupled_arguments if case in (COUPLED, STILL) else dense_arguments)(case, seed=1)
    options: dict[str, Any] = {"reverse": case.reverse, "output": case.output}
    sharded = functools.partial(sharded_linear_scan, mesh=mesh_of(devices), axis="time", **options)
    ours = jax.tree.leaves(states_and_gradients(sharded, case, args))
    alone = functools.partial(linear_scan, backend="sequential", **options)
    theirs = jax.tree.leaves(states_and_gradients(alone, case, args))
    tolerance = 1e-12 if case.dtype == "float64" else 1e-5
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == other.dtype
        np.testing.assert_allclose(mine, other, rtol=0, atol=tolerance * np.abs(other).max())


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_four_devices_equal_one(case: ScanCase) -> None:
    with jax.enable_x64(case.dtype == "float64"):
        check(case, 4)


def test_eight_devices_equal_one() -> None:
    """In another process: the number of devices is fixed when JAX starts."""
    code = (
        "import jax; jax.config.update('jax_num_cpu_devices', 8);"
        f"import runpy; module = runpy.run_path({__file__!r});"
        "module['check'](module['COUPLED'], 8)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_each_device_holds_its_part_alone() -> None:
    """By the compiler's account: arguments, results and intermediates of one device."""
    case = ScanCase("", 1024, (64,), 2, "float32")
    matrices, inputs, _ = dense_arguments(case)

    def bytes_on(devices: int) -> int:
        mesh = mesh_of(devices)
        scan = functools.partial(sharded_linear_scan, mesh=mesh, axis="time")
        place = NamedSharding(mesh, P(None, "time"))
        args = jax.device_put((matrices, inputs), place)
        grad = jax.grad(lambda *a: scan(*a).sum(), argnums=(0, 1))
        memory = jax.jit(grad).lower(*args).compile().memory_analysis()
        sizes = memory.temp_size_in_bytes, memory.argument_size_in_bytes
        return sum(sizes) + memory.output_size_in_bytes

    one, two, four = bytes_on(1), bytes_on(2), bytes_on(4)
    assert two < 0.6 * one
    assert four < 0.6 * two


def test_bad_lengths_are_named() -> None:
    scan = functools.partial(sharded_linear_scan, mesh=mesh_of(4), axis="time")
    with pytest.raises(ValueError, match="7 steps do not spread evenly over 4 devices"):
        scan(jnp.zeros((7, 2, 2)), jnp.zeros((7, 2)))
    empty = scan(jnp.zeros((0, 2, 2)), jnp.zeros((0, 2)))
    assert empty.shape == (0, 2)
