"""What lies beyond the map: its other side, or zeros."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import UserError
from common.kernels import reference
from common.mesh import make_mesh
from common.nn import no_rotation, rotate_spacetime
from cssm import SimpleCSSM
from cssm.blocks import StandardBlock
from cssm.simple import BLOCKS
from cssm.spectra import SpectralDense, grid_of

DEVICES = 8

fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class PlainBlock(StandardBlock):
    """h_t = kappa h + x_t with the plain spectrum of the kernel."""

    kernel_bound = None


def response(kernel: np.ndarray, x: np.ndarray, boundary: Any, steps: int) -> np.ndarray:
    """Frames (t, h, w, c) that follow one input frame."""
    block = PlainBlock(kernel.shape[0], kernel.shape[-1], no_rotation, boundary=boundary)
    frames = np.zeros((1, steps, *x.shape), np.float32)
    frames[:, 0] = x
    run = fast_jit(block.apply, static_argnums=2)
    out: Any = run({"params": {"kernel": kernel}}, frames, steps)
    return np.asarray(out[0])


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("size", "kernel_size"), [((6, 9), 3), ((5, 4), 4), ((3, 7), 9), ((1, 4), 5), ((1, 1), 3)]
)
def test_one_application_is_a_linear_convolution(size: tuple[int, int], kernel_size: int) -> None:
    """Also with kernels that are even, or larger than the map on one side or both."""
    kernel, x = random(2, kernel_size, kernel_size), random(*size, 2)
    out = response(kernel, x, "zero", 2)[1]
    np.testing.assert_allclose(out, reference.convolution_2d(x, kernel, boundary="zero"), atol=1e-5)


def test_impulse_at_the_border_comes_around_at_once_or_late_and_thinned_out() -> None:
    """A row of 9 cells, a kernel that moves a fifth to each of five cells, an impulse at the end.

    The grid is 12 cells long: 9, two of reach, and one up to the next length of small factors.
    """
    kernel = np.zeros((2, 5, 5), np.float32)
    kernel[:, 2] = 0.2
    x = np.zeros((5, 9, 2), np.float32)
    x[2, 8] = 1.0
    circular, zero = (response(kernel, x, name, 3)[:, 2, :, 0] for name in ("circular", "zero"))
    far = np.array([0.2, 0.2, 0, 0, 0, 0, 0.2, 0.2, 0.2])
    near = np.array([0, 0, 0, 0, 0, 0, 0.2, 0.2, 0.2])
    np.testing.assert_allclose(circular[1], far, atol=1e-6)
    np.testing.assert_allclose(zero[1], near, atol=1e-6)
    infinite = np.array([0, 0, 0, 0, 0.04, 0.08, 0.12, 0.16, 0.2])  # a wider map, cut off
    np.testing.assert_allclose(zero[2, 1:], infinite[1:], atol=1e-6)
    np.testing.assert_allclose(zero[2, 0], 0.04, atol=1e-6)  # around the grid, four cells away
    np.testing.assert_allclose(circular[2, :4], [0.16, 0.12, 0.08, 0.04], atol=1e-6)


@pytest.mark.parametrize("name", ["transformer", "gated", "gdn"])
def test_block_equals_itself_on_a_map_with_zeros_around_it(name: str) -> None:
    """With gates that do not see the input, as its mean is taken over the map alone, and without
    the bias that ends with the map. A map of 4 x 6 and a kernel of 5 make a grid of 6 x 8.
    """
    block: Any = BLOCKS[name](8, 5, rotate_spacetime, boundary="zero")
    on_grid: Any = BLOCKS[name](8, 5, rotate_spacetime)
    x = random(2, 3, 4, 6, 8)
    padded = np.pad(x, ((0, 0), (0, 0), (0, 2), (0, 2), (0, 0)))
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), x, 3))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: 0.4 * rng.standard_normal(s.shape).astype(np.float32), shapes)
    for key, layer in params.items():
        if isinstance(layer, dict) and key not in ("output_proj", "gate_proj", "norm"):
            idle = "bias" if key == "input_proj" else "kernel"
            layer[idle] = np.zeros_like(layer[idle])

    @fast_jit
    def run(params):
        variables = {"params": params}
        return block.apply(variables, x, 3), on_grid.apply(variables, padded, 3)

    ours, whole = run(params)
    np.testing.assert_allclose(ours, whole[:, :, :4, :6], atol=2e-5)


def test_bias_of_the_projection_ends_with_the_map() -> None:
    x, grid = random(1, 1, 4, 6, 3), grid_of(random(4, 6, 3), 5, "centre", "zero")
    dense = SpectralDense(1, 2)
    params = {"kernel": random(3, 2), "bias": np.array([1.0, -2.0], np.float32)}
    (spectra,) = dense.apply({"params": params}, grid.spectra(jnp.asarray(x)), grid)
    whole = np.fft.irfft2(spectra, s=(grid.rows, grid.columns), axes=(-3, -2))
    assert whole.shape == (1, 1, 6, 8, 2)
    inside = reference.widen(x) @ params["kernel"] + params["bias"]
    np.testing.assert_allclose(whole[..., :4, :6, :], inside, atol=1e-5)
    whole[..., :4, :6, :] = 0.0
    np.testing.assert_allclose(whole, 0.0, atol=1e-5)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_takes_zeros_beyond_the_map(name: str) -> None:
    """Where gates are numbers for each frequency, they are those of the grid, here 6 x 8."""
    model = SimpleCSSM(embed_dim=8, kernel_size=5, cssm_type=name, boundary="zero")
    image = jnp.zeros((1, 16, 24, 3))
    logits, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), image))
    assert logits.shape == (1, 2)
    if "C_gate" in variables["params"]["cssm_0"] and name != "no_fft":
        assert variables["params"]["cssm_0"]["C_gate"]["bias"].shape == (6 * (8 // 2 + 1),)


def test_public_layout_is_circular() -> None:
    model = SimpleCSSM(embed_dim=6, origin="upstream", boundary="zero")
    with pytest.raises(ValueError, match="'upstream' is a circular shift"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


@pytest.mark.parametrize(
    ("boundary", "shape", "what"),
    [
        ("circular", (1, 6, 8, 8), "6 rows of the spectrum"),
        ("zero", (1, 8, 8, 8), "9 rows of the spectrum"),
        ("circular", (1, 8, 8, 6), "6 channels"),
    ],
)
def test_rows_and_channels_that_the_devices_do_not_divide_are_refused(boundary, shape, what):
    with jax.set_mesh(make_mesh({"frequency": 4})):
        with pytest.raises(UserError, match=f"frequency is 4; expected a divisor of the {what}"):
            grid_of(jnp.zeros(shape), 3, "centre", boundary)
