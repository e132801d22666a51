"""The stable blocks: their bound, and 4,096 steps with gates at the ends of their ranges."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.kernels import CoupledTransition, reference
from common.kernels.transitions import dense_matrix
from common.nn import no_rotation
from cssm.blocks.stable import contracted
from cssm.simple import BLOCKS

STEPS, CHANNELS, SIZE = 4096, 2, (2, 3)
PAIRS = (
    ("transformer", "transformer_stable"),
    pytest.param("hgru_bi", "hgru_bi_stable", marks=pytest.mark.slow),
)
RHO = 0.999


def gates(rng: np.random.Generator, steps: int) -> dict[str, np.ndarray]:
    """Gates (t, b, h, f, 1), half of them at the ends of their ranges."""
    names = [f"lambda_{i}" for i in range(3)] + ["w", "alpha", "gamma"]
    drawn = {}
    for name in names:
        gate = rng.random((steps, 2, *SIZE, 1))
        ends = np.round(rng.random(gate.shape))
        gate = np.where(rng.random(gate.shape) < 0.5, ends, gate)
        drawn[name] = 0.1 + 0.89 * gate if name.startswith("lambda") else gate
    return drawn


def coupled(g: dict[str, Any], kappa: Any) -> CoupledTransition:
    """Couplings with and without a kernel, of both signs, and a row that has both kinds."""
    return CoupledTransition(
        (
            (g["lambda_0"], None, None),
            (None, g["lambda_1"], None),
            (g["gamma"], None, g["lambda_2"]),
        ),
        ((None, g["w"], g["alpha"]), (-g["w"], None, None), (None, g["alpha"], None)),
        (kappa, 0.5 * kappa, kappa[..., ::-1]),
    )


@functools.cache
def transitions() -> tuple[np.ndarray, np.ndarray]:
    """Matrices (t, b, h, f, c, 3, 3) before and after, of gates and kernels of any size."""
    rng = np.random.default_rng(0)
    kappa = np.exp(2j * np.pi * rng.random((*SIZE, 4))) * rng.choice([0.0, 0.01, 0.999], (*SIZE, 4))
    values = {name: jnp.asarray(g, jnp.float32) for name, g in gates(rng, 64).items()}
    plain = coupled(values, jnp.asarray(kappa, jnp.complex64))
    both = (dense_matrix(t.with_lanes(4)) for t in (plain, contracted(plain)))
    before, after = (reference.widen(m) for m in both)
    return before, after


def row_sums(matrices: np.ndarray) -> np.ndarray:
    return np.abs(matrices).sum(-1)


def test_no_row_exceeds_the_bound_and_some_would() -> None:
    before, after = transitions()
    assert row_sums(after).max() < RHO + 1e-6 < 2.0 < row_sums(before).max()
    assert np.abs(np.linalg.eigvals(after)).max() < RHO + 1e-6
    assert np.abs(np.linalg.eigvals(before)).max() > 1.5


def test_decays_and_rows_within_the_bound_are_kept() -> None:
    """The couplings of a row shrink together: to the bound where the channel with the largest
    kernel needs it, and not at all where it does not."""
    before, after = transitions()
    np.testing.assert_array_equal(np.diagonal(after, 0, -2, -1), np.diagonal(before, 0, -2, -1))
    needed = row_sums(before).max(-2, keepdims=True)  # over channels
    within = np.broadcast_to(needed < RHO - 1e-6, after.shape[:-1])
    assert 0.1 < within.mean() < 0.9
    np.testing.assert_array_equal(after[within], before[within])
    reached = row_sums(after).max(-2, keepdims=True)
    np.testing.assert_allclose(reached[needed > RHO + 1e-6], RHO, atol=1e-6)


def test_products_over_time_contract() -> None:
    """In the order of time, and the worst ones first: each of 64 takes its share off."""
    before, after = transitions()
    for order in (range(64), np.argsort(-row_sums(before).max((1, 2, 3, 4, 5)))):
        product = np.broadcast_to(np.eye(3), after.shape[1:])
        for t in order:
            product = after[t] @ product
        assert row_sums(product).max() < RHO**64 + 1e-6


def extreme(name: str, shapes: Any, x: np.ndarray) -> tuple[Any, np.ndarray]:
    """Parameters of size 30, and frames that drive the gates with them.

    'open' and 'shut' hold all gates at one end; with 'turning' each gate sees the frames' mean
    with a sign of its own, and 'alternating' frames flip all gates from one end to the other at
    every step.
    """
    rng = np.random.default_rng(5)
    params = jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32), shapes)
    for gate in (layer for key, layer in params.items() if isinstance(layer, dict)):
        if gate["bias"].shape[0] == SIZE[0] * (SIZE[1] // 2 + 1):
            held = {"open": 30.0, "shut": -30.0}.get(name)
            gate["kernel"] = gate["kernel"] * np.float32(0.0 if held else 30.0)
            gate["bias"] = np.full_like(gate["bias"], held or 0.0)
    for key in ("kernel", "k_exc", "k_inh"):
        if key in params:
            params[key] = 30.0 * params[key]
    signs = np.where(np.arange(STEPS) % 2, 1.0, -1.0) if name == "alternating" else np.ones(STEPS)
    return params, (x + 3.0 * signs[None, :, None, None, None]).astype(np.float32)


@functools.cache
def runner(cssm_type: str) -> Any:
    block: Any = BLOCKS[cssm_type](CHANNELS, 3, no_rotation)

    def objective(params, x):
        out = block.apply({"params": params}, x, STEPS)
        return out.mean(), jnp.abs(out).max()

    return jax.jit(
        jax.value_and_grad(objective, (0, 1), has_aux=True),
        compiler_options={"xla_backend_optimization_level": 0},
    )


@pytest.mark.parametrize("gates", ["open", "shut", "turning", "alternating"])
@pytest.mark.parametrize(("plain", "stable"), PAIRS)
def test_states_and_gradients_stay_finite_where_the_plain_block_overflows(
    plain: str, stable: str, gates: str
) -> None:
    x = np.random.default_rng(6).standard_normal((1, STEPS, *SIZE, CHANNELS))
    block: Any = BLOCKS[stable](CHANNELS, 3, no_rotation)
    init = functools.partial(block.init, jax.random.key(0))
    shapes = jax.eval_shape(lambda: init(jnp.zeros((1, 1, *SIZE, CHANNELS)), 1))["params"]
    params, x = extreme(gates, shapes, x)
    (value, largest), gradients = runner(stable)(params, x)
    drives = np.abs(x @ params["input_proj"]["kernel"]).max() * np.prod(SIZE)
    weights = np.abs(params["output_proj"]["kernel"]).sum(0).max()
    assert np.isfinite(value) and largest < 1.01 * weights * drives / (1.0 - RHO) + 10.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    (value, _), gradients = runner(plain)(params, x)
    finite = np.isfinite(value) and all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
    assert finite == (gates == "shut")
