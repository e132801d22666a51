"""Scans of a model on a mesh: who talks to whom, and what is refused."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from common.errors import UserError
from common.kernels import CoupledTransition, linear_scan
from common.kernels.scan_spread import spread_linear_scan
from common.kernels.spread import on_each_device
from common.mesh import BATCH, make_mesh

DEVICES = 8
COLLECTIVE = re.compile(r"all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter")


def problem(steps: int = 4):
    """Returns gates (t, b, h, f, 1), a kernel's spectrum (h, f, c) and inputs (t, b, h, f, c)."""
    rng = np.random.default_rng(0)
    gates = rng.uniform(0.1, 0.9, (steps, 2, 4, 3, 1)).astype(np.float32)
    spectrum, inputs = (
        rng.standard_normal(shape).astype(np.complex64)
        for shape in ((4, 3, 2), (steps, 2, 4, 3, 2))
    )
    return gates, spectrum, inputs


def scan(function, gates, spectrum, inputs):
    transition = CoupledTransition(((gates,),), ((gates,),), spectrum)
    return function(transition, (inputs,))[0]


def test_lanes_on_different_devices_do_not_talk() -> None:
    arguments = problem()
    expected = scan(linear_scan, *arguments)
    mesh = make_mesh({"data": 2, "frequency": 4})
    places = P(None, BATCH, "frequency"), P("frequency"), P(None, BATCH, "frequency")
    spread = [
        jax.device_put(x, NamedSharding(mesh, p)) for x, p in zip(arguments, places, strict=True)
    ]
    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda *a: scan(spread_linear_scan, *a)).lower(*spread).compile()
        np.testing.assert_allclose(compiled(*spread), expected, rtol=1e-5, atol=1e-6)
    assert not COLLECTIVE.search(compiled.as_text())


def test_transforms_on_different_devices_do_not_talk() -> None:
    """XLA alone would bring all maps to all devices."""
    mesh = make_mesh({"data": 2, "frequency": 4})
    x = jax.device_put(
        np.ones((2, 4, 4, 4)), NamedSharding(mesh, P("data", None, None, "frequency"))
    )
    with jax.set_mesh(mesh):
        transform = jax.jit(
            lambda x: on_each_device(lambda y: jnp.fft.rfft2(y, axes=(1, 2)), x, "b h w c")
        )
        text = transform.lower(x).compile().as_text()
    assert not COLLECTIVE.search(text)


def test_steps_that_the_devices_do_not_divide_are_refused() -> None:
    with jax.set_mesh(make_mesh({"time": 4})):
        with pytest.raises(
            UserError, match="config.mesh.time is 4; expected a divisor of the 6 time"
        ):
            jax.eval_shape(lambda *a: scan(spread_linear_scan, *a), *problem(6))
