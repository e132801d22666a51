"""The Q/K/A block against a float64 loop over its equations."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.kernels import reference
from common.kernels.spectral import Origin
from common.nn import Rotary, no_rotation, rotate_spacetime, rotate_time
from cssm.blocks import TransformerBlock

BATCH, STEPS, CHANNELS = 2, 4, 6
GATES = (
    *("decay_Q", "decay_K", "decay_A", "w_qk", "alpha", "gamma"),
    *("B_Q", "B_K", "B_A", "C_gate"),
)
TOLERANCE = 1e-5  # of the largest value


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def run(block, params, x, steps, last_only=False):
    return block.apply({"params": params}, x, steps, last_only)


@functools.partial(jax.jit, static_argnums=(0, 3))
def run_with_intermediates(block, params, x, steps):
    return block.apply({"params": params}, x, steps, mutable=["intermediates"])


def make_block(kernel_size: int = 3, rotary: Rotary = no_rotation, **fields) -> TransformerBlock:
    return TransformerBlock(CHANNELS, kernel_size, rotary, **fields)


def frames(size: tuple[int, int], steps: int = STEPS) -> Any:
    shape = (BATCH, steps, *size, CHANNELS)
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def random_params(block: TransformerBlock, x: np.ndarray) -> Any:
    """Parameters of order one in all entries, biases too, so that none of them is idle."""
    shapes = jax.eval_shape(lambda x: block.init(jax.random.key(0), x, STEPS), x)["params"]
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda s: 0.4 * rng.standard_normal(s.shape).astype(np.float32), shapes)


def dense(layer: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    return x @ reference.widen(layer["kernel"]) + layer["bias"]


def gates_of(params: dict[str, Any], x: np.ndarray) -> dict[str, np.ndarray]:
    """Gates (T, b, 1, h, f) of rotated frames (b, T, h, w, c)."""
    batch, steps, height, width, channels = x.shape
    angles = np.arange(steps)[:, None] * 10000.0 ** (-np.arange(0, channels, 2) / channels)
    code = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(steps, channels)
    context = x.mean((2, 3)) + code
    gates = {}
    for name in GATES:
        gate = 1.0 / (1.0 + np.exp(-dense(params[name], context)))
        gate = 0.1 + 0.89 * gate if name.startswith("decay") else gate
        gate = gate.reshape(batch, steps, 1, height, width // 2 + 1)
        gates[name] = gate.swapaxes(0, 1)
    return gates


def block_by_loop(params: dict[str, Any], x: np.ndarray, origin: Origin) -> np.ndarray:
    """Output (b, T, h, w, c) of the block for rotated frames, one step after the other."""
    x = reference.widen(x)
    *_, height, width, channels = x.shape
    g = gates_of(params, x)
    impulse = np.zeros((channels, height, width))
    impulse[:, 0, 0] = 1.0
    laid_out = reference.circular_convolution(impulse, params["kernel"], origin)
    kappa = reference.bound_magnitude(np.fft.rfft2(laid_out))
    projected = dense(params["input_proj"], x).transpose(1, 0, 4, 2, 3)
    drives = np.split(np.fft.rfft2(projected), 3, axis=2)
    states = reference.coupled_recurrence(
        local=[
            [g["decay_Q"], None, None],
            [None, g["decay_K"], None],
            [g["gamma"], g["gamma"], g["decay_A"]],
        ],
        coupled=[[None, g["w_qk"], g["alpha"]], [g["w_qk"], None, None], [None, None, None]],
        spectrum=kappa,
        inputs=[(g[f"B_{name}"], drive) for name, drive in zip("QKA", drives, strict=True)],
    )
    read = np.fft.irfft2(g["C_gate"] * states, s=(height, width))
    batch_first = read.transpose(2, 1, 4, 5, 3, 0)  # b, T, h, w, channel, state
    return dense(params["output_proj"], batch_first.reshape(*batch_first.shape[:4], -1))


def assert_close(actual: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize(
    ("size", "kernel_size", "rotary", "origin"),
    [
        ((4, 6), 3, rotate_spacetime, "centre"),
        ((5, 3), 7, rotate_time, "centre"),
        ((4, 5), 3, no_rotation, "upstream"),
    ],
)
def test_block_equals_the_loop(size, kernel_size, rotary, origin) -> None:
    x = frames(size)
    block = make_block(kernel_size, rotary, origin=origin)
    params = random_params(block, x)
    expected = block_by_loop(params, np.asarray(rotary(x, STEPS)), origin)
    assert_close(run(block, params, x, STEPS), expected)


@pytest.mark.parametrize("rotary", [no_rotation, rotate_time])
def test_still_image_equals_the_loop_over_its_repetition(rotary: Rotary) -> None:
    still = frames((4, 5), steps=1)
    block = make_block(rotary=rotary)
    params = random_params(block, still)
    repeated = np.asarray(rotary(still.repeat(STEPS, axis=1), STEPS))
    expected = block_by_loop(params, repeated, "centre")
    assert_close(run(block, params, still, STEPS), expected)
    assert_close(run(block, params, still, STEPS, True), expected[:, -1:])


def test_one_step_is_the_gated_input() -> None:
    x = frames((4, 5), steps=1)
    block = make_block()
    params = random_params(block, x)
    assert_close(run(block, params, x, 1), block_by_loop(params, x, "centre"))


def test_last_frame_alone_has_the_value_and_gradient_of_the_full_run() -> None:
    x = frames((4, 5))
    block = make_block()
    params = random_params(block, x)
    weights = np.random.default_rng(3).standard_normal((BATCH, 1, 4, 5, CHANNELS))

    def objective(params, x, last_only):
        out: Any = block.apply({"params": params}, x, STEPS, last_only)
        return jnp.vdot(weights.astype(np.float32), out[:, -1:])

    value_and_gradient = jax.jit(jax.value_and_grad(objective, (0, 1)), static_argnums=2)
    last, full = (value_and_gradient(params, x, last_only) for last_only in (True, False))
    np.testing.assert_allclose(last[0], full[0], rtol=1e-5)
    for mine, other in zip(jax.tree.leaves(last[1]), jax.tree.leaves(full[1]), strict=True):
        assert np.abs(other).max() > 0.0
        assert_close(mine, other)


def test_intermediates_are_gates_in_range_and_states_in_space() -> None:
    x = frames((4, 5))
    block = make_block()
    params = random_params(block, x)
    out, sown = run_with_intermediates(block, params, x, STEPS)
    (gates,), (states,) = sown["intermediates"]["gates"], sown["intermediates"]["states"]
    expected = gates_of(params, reference.widen(x))
    assert gates.keys() == expected.keys()
    for name, gate in gates.items():
        np.testing.assert_allclose(np.squeeze(gate), np.squeeze(expected[name]), atol=1e-6)
    assert states.size == BATCH * STEPS * 4 * 5 * CHANNELS * 3
    interleaved = np.moveaxis(np.asarray(states), 0, 1).reshape(BATCH, STEPS, 4, 5, 3 * CHANNELS)
    assert_close(out, dense(params["output_proj"], interleaved))


def test_decays_saturate_at_their_bounds() -> None:
    x = frames((4, 5))
    block = make_block()
    params = random_params(block, x)
    for bias, decay, other in ((60.0, 0.99, 1.0), (-60.0, 0.1, 0.0)):
        biased = {
            name: layer | {"bias": np.full_like(layer["bias"], bias)} if name in GATES else layer
            for name, layer in params.items()
        }
        _, sown = run_with_intermediates(block, biased, x, STEPS)
        (gates,) = sown["intermediates"]["gates"]
        for name, gate in gates.items():
            limit = decay if name.startswith("decay") else other
            np.testing.assert_allclose(gate, limit, atol=1e-6)
