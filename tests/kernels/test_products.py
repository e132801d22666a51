"""Products equal those in float64, forward and backward, however they are computed."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from common.kernels import by_rows, product, product_transposed, project
from common.nn import Dense
from tests.compilation import optimised_jit

ROUNDING = 2.0**-8


@pytest.fixture(params=["one_device", "several_devices"])
def devices(request, monkeypatch):
    """The products made for one device, and those that may be divided over several."""
    count = 1 if request.param == "one_device" else 4
    monkeypatch.setattr(jax, "device_count", lambda: count)
    return count


def draw(shape, seed, dtype):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def mapped(x, matrix, bias, weight):
    """A number whose gradient goes back through the map, and the map."""
    y = project(x, matrix, bias)
    return (y.astype(jnp.float32) * weight.astype(jnp.float32)).sum(), y


@pytest.mark.parametrize("lead", [(), (7,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_map_and_gradients_equal_those_in_float64(lead, dtype, devices):
    x, matrix = draw((*lead, 24), 0, dtype), draw((24, 16), 1, dtype)
    bias, weight = draw((16,), 2, dtype), draw((*lead, 16), 3, dtype)
    grad = optimised_jit(jax.grad(mapped, (0, 1, 2), has_aux=True))
    found, y = grad(x, matrix, bias, weight)
    x, matrix, bias, weight = (np.asarray(a, np.float64) for a in (x, matrix, bias, weight))
    rows, weights = x.reshape(-1, 24), weight.reshape(-1, 16)
    expected = (weight @ matrix.T, rows.T @ weights, weights.sum(0))
    rtol, atol = (2 * ROUNDING, 0.1) if dtype == jnp.bfloat16 else (0.0, 1e-4)
    assert y.dtype == dtype
    np.testing.assert_allclose(np.asarray(y, np.float64), x @ matrix + bias, rtol, atol)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol, atol)


def test_sums_are_kept_in_float32(monkeypatch):
    """Sums of bfloat16 in bfloat16 stay at 256 however many ones are added."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    ones = jnp.ones((4096, 4), jnp.bfloat16)
    matrix, bias = jnp.ones((4, 8), jnp.bfloat16), jnp.zeros(8, jnp.bfloat16)
    weight = jnp.ones((4096, 8), jnp.bfloat16)
    (of_x, of_matrix, of_bias), _ = jax.grad(mapped, (0, 1, 2), has_aux=True)(
        ones, matrix, bias, weight
    )
    assert (of_matrix == 4096).all() and (of_bias == 4096).all() and (of_x == 8).all()
    long = jnp.ones((1, 4096), jnp.bfloat16)
    assert (project(long, jnp.ones((4096, 3), jnp.bfloat16)) == 4096).all()


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("sizes", [(6, 24, 10), (24, 20, 3), (24, 3, 20)], ids=str)
@pytest.mark.parametrize("multiply", [product, product_transposed])
def test_products_and_gradients_equal_those_in_float64(multiply, sizes, lead, dtype, devices):
    del devices
    i, k, j = sizes
    a, b = draw((*lead, i, k), 0, dtype), draw((*lead, k, j), 1, dtype)
    weight = draw((*lead, i, j), 2, jnp.bfloat16).astype(jnp.float32)
    if multiply is product_transposed:
        b = jnp.swapaxes(b, -1, -2)

    def weighted(a, b):
        y = multiply(by_rows(a), b, jnp.float32)
        return (y * weight).sum(), y

    (of_a, of_b), y = optimised_jit(jax.grad(weighted, (0, 1), has_aux=True))(a, b)
    assert multiply(a, b).dtype == of_a.dtype == of_b.dtype == dtype and y.dtype == jnp.float32
    a, b, weight = (np.asarray(x, np.float64) for x in (a, b, weight))
    b = b if multiply is product else np.swapaxes(b, -1, -2)
    expected_a, expected_b = weight @ np.swapaxes(b, -1, -2), np.swapaxes(a, -1, -2) @ weight
    if multiply is product_transposed:
        expected_b = np.swapaxes(expected_b, -1, -2)
    rtol, atol = (2 * ROUNDING, 0.05) if dtype == jnp.bfloat16 else (0.0, 1e-4)
    np.testing.assert_allclose(np.asarray(y, np.float64), a @ b, atol=1e-4)
    np.testing.assert_allclose(np.asarray(of_a, np.float64), expected_a, rtol, atol)
    np.testing.assert_allclose(np.asarray(of_b, np.float64), expected_b, rtol, atol)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_one_device_multiplies_what_lies_by_rows(dtype, monkeypatch):
    arguments = [draw(s, 0, dtype) for s in ((6, 4), (4, 2), (2,), (6, 2))]
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    program = str(jax.make_jaxpr(jax.grad(mapped, (0, 1, 2), has_aux=True))(*arguments))
    assert "layout_constraint" in program
    assert program.count("preferred_element_type=float32") == 4


def test_gradient_of_each_example_is_that_of_it_alone(devices):
    del devices
    x, weight = draw((5, 3, 8), 0, jnp.bfloat16), draw((5, 3, 6), 1, jnp.bfloat16)
    matrix, bias = draw((8, 6), 2, jnp.bfloat16), draw((6,), 3, jnp.bfloat16)
    grad = jax.grad(lambda m, b, x, w: mapped(x, m, b, w)[0], (0, 1))
    together = optimised_jit(jax.vmap(grad, (None, None, 0, 0)))(matrix, bias, x, weight)
    for i in range(5):
        for a, b in zip(together, grad(matrix, bias, x[i], weight[i]), strict=True):
            np.testing.assert_allclose(a[i].astype(float), b.astype(float), rtol=ROUNDING)


def test_gradients_can_be_taken_in_forward_mode(monkeypatch):
    shapes = ((4, 6), (6, 5), (5,))
    primals, towards = (
        tuple(draw(shape, seed, jnp.float32) for shape in shapes) for seed in (0, 1)
    )

    def loss(x, matrix, bias):
        y = jnp.sin(project(x, matrix, bias))
        return jnp.sum(product(jnp.cos(product_transposed(y, y)), y) ** 2)

    def turned(count):
        monkeypatch.setattr(jax, "device_count", lambda: count)
        return jax.jvp(jax.grad(loss, (0, 1, 2)), primals, towards)[1]

    for own, plain in zip(turned(1), turned(4), strict=True):
        np.testing.assert_allclose(own, plain, rtol=1e-4, atol=1e-4)


def test_dtypes_are_promoted():
    x, matrix = draw((2, 4), 0, jnp.bfloat16), draw((4, 3), 1, jnp.float32)
    assert project(x, matrix).dtype == jnp.float32
    assert project(x, matrix.astype(x.dtype)).dtype == jnp.bfloat16


def test_gradients_of_wide_parameters_are_not_rounded(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    x, weight = draw((40, 8), 0, jnp.bfloat16), draw((40, 6), 1, jnp.bfloat16)
    matrix, bias = draw((8, 6), 2, jnp.float32), draw((6,), 3, jnp.float32)

    def total(matrix, bias):
        y = project(x, matrix, bias, jnp.bfloat16)
        assert y.dtype == jnp.bfloat16
        return (y.astype(jnp.float32) * weight.astype(jnp.float32)).sum()

    found = optimised_jit(jax.grad(total, (0, 1)))(matrix, bias)
    rows, weights = (np.asarray(a, np.float64) for a in (x, weight))
    for gradient, expected in zip(found, (rows.T @ weights, weights.sum(0)), strict=True):
        assert gradient.dtype == jnp.float32
        np.testing.assert_allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "matrix", "bias"), [((2, 3), (4, 5), None), ((2, 4), (4, 5, 1), None), ((4,), (4, 5), 4)]
)
def test_shapes_that_do_not_fit_are_named(x, matrix, bias):
    with pytest.raises(ValueError, match=r"do not fit; expected \(\*b, i\), \(i, o\) and \(o,\)"):
        project(jnp.ones(x), jnp.ones(matrix), None if bias is None else jnp.ones(bias))


@pytest.mark.parametrize("bias", [True, False])
def test_layer_has_the_parameters_and_values_of_flax(bias):
    x = draw((3, 5), 0, jnp.float32)
    theirs, ours = nn.Dense(7, use_bias=bias), Dense(7, use_bias=bias)
    variables = theirs.init(jax.random.key(0), x)
    same = jax.tree.map(jnp.array_equal, variables, ours.init(jax.random.key(0), x))
    assert jax.tree.all(same)
    y, expected = (np.asarray(layer.apply(variables, x)) for layer in (ours, theirs))
    np.testing.assert_allclose(y, expected, atol=1e-6)
    half: Any = Dense(7, use_bias=bias, dtype=jnp.bfloat16).apply(variables, x)
    assert half.dtype == jnp.bfloat16
