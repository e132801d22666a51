"""Rotary and sinusoidal position codes against their definitions, pair by pair."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.nn import (
    Rotary,
    no_rotation,
    rotate_interleaved,
    rotate_space,
    rotate_spacetime,
    rotate_time,
    time_code,
)

STEPS, HEIGHT, WIDTH = 3, 4, 5
CODES = {
    "time": rotate_time,
    "space": rotate_space,
    "spacetime": rotate_spacetime,
    "interleaved": rotate_interleaved,
}
each_code = pytest.mark.parametrize("rotary", CODES.values(), ids=CODES)


def frequency_lists(rotary: Rotary, channels: int) -> tuple[list, list, list]:
    """Angular frequencies of time, rows and columns; all lists start at the first pair."""
    f = [10000.0 ** (-2 * j / channels) for j in range(channels // 2)]
    if rotary is rotate_time:
        return f, [], []
    if rotary is rotate_space:
        return [], f[0::2], f[1::2]
    third = len(f) // 3
    if rotary is rotate_interleaved:
        axes = [j % 3 if j < 3 * third else 2 for j in range(len(f))]
        parts = [f[:third], f[third : 2 * third], f[2 * third :]]
        lists = [[parts[axis].pop(0) if a == axis else 0.0 for a in axes] for axis in range(3)]
        return lists[0], lists[1], lists[2]
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


@each_code
@pytest.mark.parametrize("channels", [2, 10, 14])
def test_rotation_equals_its_definition(rotary: Rotary, channels: int) -> None:
    x = frames(channels)
    turned = jax.jit(rotary, static_argnums=1)(x, STEPS)
    np.testing.assert_allclose(turned, rotated(x, rotary), atol=2e-6)


@each_code
def test_space_and_time_apart_are_both_at_once(rotary: Rotary) -> None:
    x = frames(14)
    apart = rotary.in_time(rotary.in_space(x), STEPS)
    np.testing.assert_allclose(apart, rotary(x, STEPS), atol=2e-6)


@each_code
def test_turn_in_time_commutes_with_the_transform_of_a_still_image(rotary: Rotary) -> None:
    still = frames(14, steps=1)
    transform = functools.partial(jnp.fft.rfft2, axes=(-3, -2))
    late = jnp.broadcast_to(
        rotary.in_time(transform(rotary.in_space(still)), STEPS),
        (2, STEPS, HEIGHT, WIDTH // 2 + 1, 14),
    )
    np.testing.assert_allclose(late, transform(rotary(still.repeat(STEPS, 1), STEPS)), atol=1e-5)


@pytest.mark.parametrize("rotary", [rotate_time, rotate_spacetime, rotate_interleaved])
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


@each_code
def test_odd_channels_are_refused(rotary: Rotary) -> None:
    with pytest.raises(ValueError, match="even number of channels; got 7"):
        jax.eval_shape(lambda x: rotary(x, STEPS), frames(7))
