"""Rotary and sinusoidal position codes against their definitions, pair by pair."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.nn import (
    Rotary,
    no_rotation,
    rotate_space,
    rotate_spacetime,
    rotate_time,
    time_code,
)

STEPS, HEIGHT, WIDTH = 3, 4, 5


def frequency_lists(rotary: Rotary, channels: int) -> tuple[list, list, list]:
    """Angular frequencies of time, rows and columns; all lists start at the first pair."""
    f = [10000.0 ** (-2 * j / channels) for j in range(channels // 2)]
    if rotary is rotate_time:
        return f, [], []
    if rotary is rotate_space:
        return [], f[0::2], f[1::2]
    third = len(f) // 3
    return f[:third], f[third::2], f[third + 1 :: 2]


def rotated(x: np.ndarray, rotary: Rotary) -> np.ndarray:
    """Turns every pair of channels (2j, 2j + 1) by its angle, one number after the other."""
    lists = frequency_lists(rotary, x.shape[-1])
    y = np.zeros(x.shape)
    for b, t, row, column, j in np.ndindex(*x.shape[:-1], x.shape[-1] // 2):
        position = zip((t, row, column), lists, strict=True)
        angle = sum(p * f[j] for p, f in position if j < len(f))
        even, odd = x[b, t, row, column, 2 * j : 2 * j + 2]
        y[b, t, row, column, 2 * j] = even * math.cos(angle) - odd * math.sin(angle)
        y[b, t, row, column, 2 * j + 1] = even * math.sin(angle) + odd * math.cos(angle)
    return y


def frames(channels: int, steps: int = STEPS) -> Any:
    shape = (2, steps, HEIGHT, WIDTH, channels)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("rotary", [rotate_time, rotate_space, rotate_spacetime])
@pytest.mark.parametrize("channels", [2, 10, 14])
def test_rotation_equals_its_definition(rotary: Rotary, channels: int) -> None:
    x = frames(channels)
    turned = jax.jit(rotary, static_argnums=1)(x, STEPS)
    np.testing.assert_allclose(turned, rotated(x, rotary), atol=2e-6)


@pytest.mark.parametrize("rotary", [rotate_time, rotate_spacetime])
def test_still_image_turns_as_its_repetition(rotary: Rotary) -> None:
    still = frames(10, steps=1)
    repeated = still.repeat(STEPS, axis=1)
    np.testing.assert_array_equal(rotary(still, STEPS), rotary(repeated, STEPS))


@pytest.mark.parametrize("rotary", [no_rotation, rotate_space])
def test_codes_without_time_leave_a_still_image_one_frame(rotary: Rotary) -> None:
    assert rotary(frames(10, steps=1), STEPS).shape == (2, 1, HEIGHT, WIDTH, 10)


def test_no_rotation_returns_its_input() -> None:
    x = frames(6)
    assert no_rotation(x, STEPS) is x


def test_inner_products_depend_on_the_difference_of_times() -> None:
    query, key = frames(10, steps=1), frames(10, steps=1)[::-1]
    moved_query, moved_key = rotate_time(query, 5), rotate_time(key, 5)
    products = np.einsum("bshwc,bthwc->bhwst", moved_query, moved_key)
    for gap in range(-4, 5):
        along = np.diagonal(products, gap, -2, -1)
        np.testing.assert_allclose(along, along[..., :1].repeat(along.shape[-1], -1), atol=1e-5)


def test_rotation_keeps_the_dtype() -> None:
    x = jnp.asarray(frames(6), jnp.bfloat16)
    assert jax.eval_shape(lambda x: rotate_spacetime(x, STEPS), x).dtype == jnp.bfloat16


def test_time_code_interleaves_sine_and_cosine() -> None:
    code = time_code(4, 6)
    for t, j in np.ndindex(4, 3):
        angle = t * 10000.0 ** (-2 * j / 6)
        expected = [math.sin(angle), math.cos(angle)]
        np.testing.assert_allclose(code[t, 2 * j : 2 * j + 2], expected, atol=1e-6)


@pytest.mark.parametrize("rotary", [rotate_time, rotate_space, rotate_spacetime])
def test_odd_channels_are_refused(rotary: Rotary) -> None:
    with pytest.raises(ValueError, match="even number of channels; got 7"):
        jax.eval_shape(lambda x: rotary(x, STEPS), frames(7))
