"""Causal convolution against the loop over time and taps, in parallel and step by step."""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.kernels import causal_conv, causal_conv_state, causal_conv_step, reference
from common.kernels.taps import correlate_taps, sum_by_tap, sum_in_blocks

LENGTHS, TAPS = (1, 2, 7, 8, 33), (1, 2, 9)
CASES = [
    (length, taps, batch)
    for (length, taps), batch in zip(
        itertools.product(LENGTHS, TAPS), itertools.cycle([(), (2,), (2, 3)]), strict=False
    )
]
TOLERANCE = {"float32": 3e-6, "float64": 1e-14, "bfloat16": 1e-2, "complex64": 3e-6}
each_case = pytest.mark.parametrize(("length", "taps", "batch"), CASES)
jitted_conv = jax.jit(causal_conv)
jitted_state = jax.jit(causal_conv_state, static_argnums=1)


def normal(*shape: int, seed: int = 0, dtype: str = "float64") -> Any:
    rng = np.random.default_rng([seed, *shape])
    if dtype.startswith("complex"):
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def arguments(length: int, taps: int, batch: tuple[int, ...]) -> list[Any]:
    """Random x, kernel, bias and state of five channels."""
    shapes = (*batch, length, 5), (taps, 5), (5,), (*batch, taps - 1, 5)
    return [normal(*shape, seed=i) for i, shape in enumerate(shapes)]


@each_case
def test_convolution_equals_the_loop(length: int, taps: int, batch: tuple[int, ...]) -> None:
    args = [x.astype(np.float32) for x in arguments(length, taps, batch)]
    args = args[:2] if taps == 2 else args  # neither bias nor state
    y = jitted_conv(*args)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, reference.causal_convolution(*args), atol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_arithmetic_is_that_of_the_type_and_float32_for_narrower_ones(dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        x, kernel = (v.astype(jnp.dtype(dtype)) for v in arguments(33, 4, (2,))[:2])
        y = jitted_conv(x, kernel)
        assert y.dtype == dtype
        wide = "complex128" if "complex" in dtype else "float64"
        expected = reference.causal_convolution(x.astype(wide), kernel.astype(wide))
        np.testing.assert_allclose(
            np.asarray(y, wide), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
        )


def test_bfloat16_is_added_in_float32() -> None:
    """In bfloat16 256 + 1 is 256, whatever the number of ones."""
    x = jnp.concatenate([jnp.full((1, 1), 256.0), jnp.ones((4, 1))]).astype(jnp.bfloat16)
    y = causal_conv(x, jnp.ones((5, 1), jnp.bfloat16))
    assert float(y[-1, 0]) == 260.0


@pytest.mark.parametrize(("length", "taps"), [(1, 1), (2, 9), (33, 4), (8, 2)])
def test_gradients_equal_finite_differences(length: int, taps: int) -> None:
    args = arguments(length, taps, (2,))
    weights = normal(2, length, 5, seed=9)
    with jax.enable_x64():

        @jax.jit
        @functools.partial(jax.grad, argnums=(0, 1, 2, 3))
        def slopes(*args: Any) -> Any:
            return jnp.vdot(weights, causal_conv(*args))

        gradients = slopes(*args)
    for i, (x, slope) in enumerate(zip(args, gradients, strict=True)):
        direction = normal(*x.shape, seed=20)
        ahead, behind = (
            np.vdot(
                weights,
                reference.causal_convolution(
                    *args[:i], x + sign * 1e-4 * direction, *args[i + 1 :]
                ),
            )
            for sign in (1, -1)
        )
        np.testing.assert_allclose(
            np.vdot(slope, direction), (ahead - behind) / 2e-4, rtol=1e-6, atol=1e-8
        )


@pytest.mark.parametrize(
    ("x_shape", "w_shape"),
    [
        ((2, 7, 9, 3), (2, 5, 9, 3)),
        ((1, 9, 8, 2), (1, 7, 5, 2)),
        ((3, 36, 1, 2), (3, 33, 1, 2)),
        ((2, 3, 21, 2), (2, 1, 19, 2)),
        ((1, 4, 30, 2), (1, 3, 28, 2)),
    ],
)
def test_both_ways_of_the_kernel_gradient_agree(x_shape: Any, w_shape: Any) -> None:
    """One is for the CPU; the other one, for other platforms, is run here too."""
    x, weights = normal(*x_shape, dtype="float32"), normal(*w_shape, seed=1, dtype="float32")
    by_tap = jax.jit(sum_by_tap)(x, weights)
    np.testing.assert_allclose(jax.jit(sum_in_blocks)(x, weights), by_tap, atol=3e-5)


def test_mapped_and_second_derivatives_exist() -> None:
    x, kernel = normal(3, 2, 6, 1, 4, dtype="float32"), normal(3, 3, 1, 4, dtype="float32")

    @jax.jit
    def slope(x: Any, kernel: Any) -> Any:
        return jax.grad(lambda k: jnp.sum(correlate_taps(x, k) ** 2) / 2)(kernel)

    mapped = jax.jit(jax.vmap(slope))(x, kernel)
    for i in range(3):
        np.testing.assert_allclose(mapped[i], slope(x[i], kernel[i]), rtol=1e-4, atol=1e-5)
    # the slope is linear in the kernel, so its own derivative along the kernel is itself
    along = jax.grad(lambda k: jnp.vdot(slope(x[0], k), kernel[0]))(kernel[0])
    np.testing.assert_allclose(along, slope(x[0], kernel[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("length", "taps"), [(7, 3), (4, 9)])
def test_no_output_sees_an_input_after_it(length: int, taps: int) -> None:
    x, kernel, bias, _ = arguments(length, taps, ())
    jacobian = jax.jit(jax.jacrev(lambda x: causal_conv(x, kernel, bias).sum(-1)))(x)
    seen = np.abs(np.asarray(jacobian)).sum(-1) > 0  # (output, input)
    t = np.arange(length)
    np.testing.assert_array_equal(seen, (t[None] <= t[:, None]) & (t[:, None] - t[None] < taps))


def test_the_last_tap_meets_the_current_input() -> None:
    x = np.arange(1.0, 6.0, dtype=np.float32)[:, None]
    kernel = np.array([[100.0], [10.0], [1.0]], np.float32)
    np.testing.assert_array_equal(causal_conv(x, kernel)[:, 0], [1, 12, 123, 234, 345])


@pytest.mark.parametrize("taps", [1, 4])
def test_kernels_are_those_of_flax(taps: int) -> None:
    x, kernel, bias, _ = (a.astype(np.float32) for a in arguments(8, taps, (2,)))
    layer = nn.Conv(5, (taps,), padding="CAUSAL", feature_group_count=5)
    expected = layer.apply({"params": {"kernel": kernel[:, None], "bias": bias}}, x)
    np.testing.assert_allclose(causal_conv(x, kernel, bias), expected, atol=1e-5)


@pytest.mark.parametrize("taps", TAPS)
def test_steps_after_a_prefix_give_the_parallel_numbers(taps: int) -> None:
    x, kernel, bias, _ = (a.astype(np.float32) for a in arguments(12, taps, (2,)))
    expected = jitted_conv(x, kernel, bias)
    step = jax.jit(causal_conv_step)
    for prefix in (0, 2, 7):
        state = causal_conv_state(x[:, :prefix], taps)
        assert state.shape == (2, taps - 1, 5)
        for t in range(prefix, 12):
            state, y_t = step(state, x[:, t], kernel, bias)
            np.testing.assert_allclose(y_t, expected[:, t], atol=1e-6)


@settings(max_examples=20, deadline=None, database=None, derandomize=True)
@given(cuts=st.lists(st.integers(0, 9), max_size=4))
def test_a_sequence_may_be_cut_anywhere(cuts: list[int]) -> None:
    x, kernel, bias, state = (a.astype(np.float32) for a in arguments(9, 4, (2,)))
    expected = reference.causal_convolution(x, kernel, bias, state)
    pieces = []
    for piece in np.split(x, sorted(cuts), axis=1):
        if piece.shape[1]:
            pieces.append(jitted_conv(piece, kernel, bias, state))
        state = jitted_state(piece, 4, state)
    np.testing.assert_allclose(np.concatenate(pieces, 1), expected, atol=1e-5)


@settings(max_examples=20, deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 2**32), factor=st.floats(-8, 8, width=32), shift=st.integers(0, 8))
def test_linear_in_x_and_equivariant_to_delays(seed: int, factor: float, shift: int) -> None:
    convolve = functools.partial(jitted_conv, kernel=normal(4, 5, dtype="float32"))
    x, z = (normal(2, 9, 5, seed=seed + i, dtype="float32") for i in (0, 1))
    combined = convolve(x + np.float32(factor) * z)
    np.testing.assert_allclose(combined, convolve(x) + np.float32(factor) * convolve(z), atol=1e-4)
    delay = functools.partial(np.pad, pad_width=((0, 0), (shift, 0), (0, 0)))
    delayed = convolve(delay(x)[:, :9])
    np.testing.assert_allclose(delayed, delay(np.asarray(convolve(x)))[:, :9], atol=1e-5)


X, K = jnp.zeros((2, 7, 5)), jnp.zeros((4, 5))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((X, K[:, :4]), r"kernel \(4, 4\) does not fit x \(2, 7, 5\); expected \(k, 5\)"),
        ((X, K[0]), r"kernel \(5,\) does not fit"),
        ((X, K[:0]), r"kernel \(0, 5\) does not fit"),
        ((X, K, jnp.zeros(4)), r"bias has shape \(4,\); expected \(5,\)"),
        ((X, K, None, jnp.zeros((2, 4, 5))), r"state has shape \(2, 4, 5\); expected \(2, 3, 5\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(args: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        causal_conv(*args)
