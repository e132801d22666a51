"""Half precision: where it is used, where not, and what it costs."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssm import SimpleCSSM
from cssm.simple import BLOCKS, POOLS
from cssm.stem import max_pool_2x2

TOLERANCE = 0.05  # of the largest logit; bfloat16 has eight bits
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
each_kind = pytest.mark.parametrize("name", ["transformer", "gdn", "no_fft", "spatial_attn"])


def small(name: str = "transformer", **options: Any) -> Any:
    return SimpleCSSM(**{"embed_dim": 8, "kernel_size": 3, "cssm_type": name, **options})


def video() -> Any:
    return np.random.default_rng(0).standard_normal((2, 3, 8, 12, 3)).astype(np.float32)


def random_params(model: Any) -> Any:
    shapes = jax.eval_shape(model.init, jax.random.key(0), video())["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: 0.4 * rng.standard_normal(s.shape).astype(np.float32), shapes)


def equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda p: hasattr(p, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@each_kind
def test_products_are_in_half_and_transforms_and_recurrence_in_single(name: str) -> None:
    """All convolutions and matrix products but the head's; it, norms and their means are not."""
    model = small(name, dtype="bfloat16")
    params = random_params(model)
    program = jax.make_jaxpr(lambda x: model.apply({"params": params}, x))(video())
    seen: dict[str, list[set[str]]] = {}
    for equation in equations(program.jaxpr):
        arrays = [v.aval for v in equation.invars if v.aval.shape]
        dtypes = {str(a.dtype) for a in arrays if jnp.issubdtype(a.dtype, jnp.inexact)}
        if equation.outvars[0].aval.shape[-1:] == (1,) and dtypes == {"float32"}:
            continue  # a mean over the channels
        seen.setdefault(equation.primitive.name, []).append(dtypes)
    assert seen["conv_general_dilated"] == [{"bfloat16"}] * 2
    *products, head = seen["dot_general"]
    assert len(products) >= 3 and all(dtypes == {"bfloat16"} for dtypes in products)
    assert head == {"float32"}
    halves = {"bfloat16"}
    for loop in ("fft", "scan", "while"):
        assert not any(dtypes & halves for dtypes in seen.get(loop, []))
    assert name == "spatial_attn" or "scan" in seen or "while" in seen
    assert program.out_avals[0].dtype == jnp.float32


@pytest.mark.parametrize("name", ["transformer", "gdn"])
def test_logits_agree_with_those_of_single_precision(name: str) -> None:
    """With half precision in the arithmetic, and in the parameters too."""
    params = random_params(small(name))
    stored = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    rounded = jax.tree.map(lambda p: p.astype(np.float32), stored)

    @fast_jit
    def run(params, stored, rounded):
        half = small(name, dtype="bfloat16").apply({"params": params}, video())
        light = small(name, dtype="bfloat16", param_dtype="bfloat16")
        return (
            small(name).apply({"params": params}, video()),
            half,
            light.apply({"params": stored}, video()),
            small(name, param_dtype="bfloat16").apply({"params": stored}, video()),
            small(name).apply({"params": rounded}, video()),
        )

    full, half, light, widened, same = (np.asarray(out) for out in run(params, stored, rounded))
    for logits in (half, light):
        assert 0.0 < np.abs(logits - full).max() < TOLERANCE * np.abs(full).max()
    np.testing.assert_allclose(widened, same, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", BLOCKS)
def test_parameters_have_the_dtype_that_was_asked_for(name: str, dtype: str) -> None:
    """Whatever the dtype of the arithmetic; the logits are float32."""
    options = {"pos_embed": "learnable", "norm_type": "layer"}
    model = small(name, param_dtype=dtype, dtype="bfloat16", **options)
    logits, variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    )
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(variables)} == {dtype}
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("pool", [max_pool_2x2, functools.partial(POOLS["max"], axes=(0, 1, 2))])
def test_no_gradient_of_a_maximum_is_lost_to_rounding(pool: Any) -> None:
    """None compares with the maximum what XLA may compute again, in another loop."""
    graph = jax.make_jaxpr(jax.grad(lambda x: pool(x).sum()))(jnp.ones((2, 5, 6, 3)))
    compared = [e.invars[0].aval.dtype for e in equations(graph.jaxpr) if e.primitive.name == "eq"]
    assert not [dtype for dtype in compared if jnp.issubdtype(dtype, jnp.floating)]
