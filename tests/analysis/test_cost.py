"""Costs of programs, and what a still image saves of them."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from common.analysis import count_flops, program_cost
from common.compiled import temporary_bytes
from cssm import SimpleCSSM


def test_cost_of_a_matrix_product() -> None:
    """Two operations for each of its terms; the first product is held for the second one."""
    square = jnp.zeros((64, 64))
    cost = program_cost(lambda x: (x @ x) @ x, square)
    assert abs(cost.flops - 2 * 2 * 64**3) < 0.01 * cost.flops
    assert square.nbytes <= cost.temporary_bytes < 4 * square.nbytes


def test_a_platform_that_does_not_tell_its_memory_is_named() -> None:
    silent: Any = SimpleNamespace(memory_analysis=lambda: None)
    with pytest.raises(NotImplementedError, match="no memory analysis on cpu"):
        temporary_bytes(silent)


def test_flops_of_loops_are_taken_as_often_as_they_run() -> None:
    """n^3 multiplications and additions, in a scan of 5 within one of 3, forward and backward."""
    weights, x = jnp.ones((16, 16)), jnp.ones((16, 16))
    product = 2 * 16**3

    def inner(carry, _):
        return carry @ weights, None

    @jax.jit
    def nested(x):
        def outer(carry, _):
            return jax.lax.scan(inner, carry, None, length=5)[0], None

        return jax.lax.scan(outer, x, None, length=3)[0]

    assert count_flops(lambda x: x @ weights, x) == product
    assert count_flops(nested, x) == pytest.approx(15 * product, rel=0.01)
    slope = jax.value_and_grad(lambda x: nested(x).sum())
    assert count_flops(slope, x) == pytest.approx(30 * product, rel=0.05)


def test_still_image_costs_less_than_half_of_its_repetition() -> None:
    """Stem, projections and transforms are done once, and not eight times."""
    model: Any = SimpleCSSM(embed_dim=8, kernel_size=7, seq_len=8)
    still = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    video = jax.ShapeDtypeStruct((2, 8, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), still)
    once, repeated = (program_cost(model.apply, variables, x) for x in (still, video))
    assert once.flops < 0.5 * repeated.flops
    assert once.temporary_bytes < 0.5 * repeated.temporary_bytes
