"""Feature-wise modulation against the loop over positions."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.kernels import film, film_parameters, reference

TOLERANCE = {"float32": 1e-6, "float64": 1e-14, "bfloat16": 8e-3}
SHAPES = [
    ((3,), (3,), (3,)),
    ((7, 3), (7, 3), (7, 3)),
    ((2, 5, 3), (2, 3), (2, 3)),
    ((2, 5, 4, 3), (2, 3), (2, 5, 4, 3)),
    ((2, 4, 5, 3), (2, 4, 3), (3,)),
    ((2, 4, 5, 2, 3), (1, 4, 3), (2, 1, 5, 1, 3)),
]
jitted_film = jax.jit(film)


def normal(shape: tuple[int, ...], seed: int, dtype: str = "float32") -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def arguments(shapes: Any, dtype: str = "float32") -> list[Any]:
    return [normal(shape, seed, dtype) for seed, shape in enumerate(shapes)]


@pytest.mark.parametrize(
    ("dtype", "shapes"),
    [("float32", shapes) for shapes in SHAPES]
    + [(dtype, SHAPES[-1]) for dtype in ("float64", "bfloat16")],
)
def test_modulation_equals_the_loop(dtype: str, shapes: Any) -> None:
    with jax.enable_x64(dtype == "float64"):
        args = arguments(shapes, dtype)
        y = jitted_film(*args)
        assert y.dtype == dtype
        expected = reference.film(*[x.astype(np.float64) for x in args])
        np.testing.assert_allclose(
            np.asarray(y, np.float64), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype]
        )


@pytest.mark.parametrize("shapes", SHAPES[1::2], ids=str)
def test_gradients_equal_finite_differences(shapes: Any) -> None:
    args, weights = arguments(shapes, "float64"), normal(shapes[0], 9, "float64")
    with jax.enable_x64():
        gradients = jax.jit(jax.grad(lambda *a: jnp.vdot(weights, film(*a)), argnums=(0, 1, 2)))(
            *args
        )
    for i, (x, slope) in enumerate(zip(args, gradients, strict=True)):
        assert slope.shape == x.shape
        direction = normal(x.shape, 20, "float64")
        ends = [
            np.vdot(weights, reference.film(*args[:i], x + sign * 1e-4 * direction, *args[i + 1 :]))
            for sign in (1, -1)
        ]
        np.testing.assert_allclose(np.vdot(slope, direction), (ends[0] - ends[1]) / 2e-4, rtol=1e-6)


def test_bfloat16_is_multiplied_and_added_in_float32() -> None:
    """In bfloat16 the product 260.015625 would be 260 before the sum."""
    x, gamma, beta = (jnp.full(3, v, jnp.bfloat16) for v in (16.125, 16.125, -260.0))
    y = film(x, gamma, beta)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y.astype(jnp.float32), 0.015625)


def test_a_generator_of_zeros_is_the_identity_and_learns() -> None:
    x, condition = normal((2, 5, 4, 3), 0), normal((2, 7), 1)
    generator = nn.Dense(6, kernel_init=nn.initializers.zeros)
    variables = generator.init(jax.random.key(0), condition)

    def modulate(variables: Any) -> jax.Array:
        return film(x, *film_parameters(generator.apply(variables, condition)))

    np.testing.assert_array_equal(modulate(variables), x)
    slopes = jax.grad(lambda v: jnp.sum(modulate(v) ** 2))(variables)
    assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(slopes))


def test_parameters_are_one_plus_the_first_half_and_the_second() -> None:
    gamma, beta = film_parameters(jnp.array([1.0, 2.0, 3.0, 4.0], jnp.bfloat16))
    assert gamma.dtype == beta.dtype == jnp.float32
    np.testing.assert_array_equal(gamma, [2.0, 3.0])
    np.testing.assert_array_equal(beta, [3.0, 4.0])


@settings(max_examples=20, deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 2**32), factor=st.floats(-8, 8, width=32))
def test_linear_in_x_but_for_the_shift(seed: int, factor: float) -> None:
    x, z, gamma, beta = (normal(s, seed) for s in ((2, 5, 3), (2, 5, 3), (2, 3), (2, 3)))
    apply = functools.partial(jitted_film, gamma=gamma, beta=0 * beta)
    combined = apply(x + np.float32(factor) * z)
    np.testing.assert_allclose(combined, apply(x) + np.float32(factor) * apply(z), atol=1e-4)
    np.testing.assert_allclose(jitted_film(x, gamma, beta), apply(x) + beta[:, None], atol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 5, 3), (2, 4), (2, 3)), r"gamma \(2, 4\) does not fit x \(2, 5, 3\)"),
        (((2, 5, 3), (2, 3), (5, 3)), r"beta \(5, 3\) does not fit x \(2, 5, 3\)"),
        (((2, 3), (2, 1, 3), (3,)), r"gamma \(2, 1, 3\) does not fit x \(2, 3\)"),
        (((2, 3), (), (3,)), r"gamma \(\) does not fit x \(2, 3\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        film(*(jnp.zeros(shape) for shape in shapes))


def test_an_odd_number_of_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="7 values do not split into gamma and beta"):
        film_parameters(jnp.zeros((2, 7)))
