"""Costs of programs, and what a still image saves of them."""

from typing import Any

import jax
import jax.numpy as jnp

from common.analysis import program_cost
from cssm import SimpleCSSM


def test_cost_of_a_matrix_product() -> None:
    """Two operations for each of its terms; the first product is held for the second one."""
    square = jnp.zeros((64, 64))
    cost = program_cost(lambda x: (x @ x) @ x, square)
    assert abs(cost.flops - 2 * 2 * 64**3) < 0.01 * cost.flops
    assert square.nbytes <= cost.temporary_bytes < 4 * square.nbytes


def test_still_image_costs_less_than_half_of_its_repetition() -> None:
    """Stem, projections and transforms are done once, and not eight times."""
    model: Any = SimpleCSSM(embed_dim=8, kernel_size=7, seq_len=8)
    still = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    video = jax.ShapeDtypeStruct((2, 8, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), still)
    once, repeated = (program_cost(model.apply, variables, x) for x in (still, video))
    assert once.flops < 0.5 * repeated.flops
    assert once.temporary_bytes < 0.5 * repeated.temporary_bytes
