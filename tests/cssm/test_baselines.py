"""The models that the blocks are compared with: by their equations, symmetries and reach."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cssm.baselines import HGRUCell, HGRUClassifier, ResNet, ViT
from cssm.readout import PooledReadout
from cssm.stem import ConvStem
from tests.cssm.loops import dense, layer_norm, sigmoid

fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
VIT = ViT(8, heads=2, patch=2, depth=2)
RESNET = ResNet((3, 4), blocks=1)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def shapes_of(model: Any, *arguments: Any) -> Any:
    return jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"]


def random_params(model: Any, *arguments: Any) -> Any:
    """Parameters of order one in all entries, biases and scales too, so that none is idle."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda s: 0.4 * rng.standard_normal(s.shape).astype(np.float32),
        shapes_of(model, *arguments),
    )


def count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def convolved(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Sum over offsets d and channels a of x[p - d, a] kernel[d, a], zero outside the map."""
    side, reach = kernel.shape[0], kernel.shape[0] // 2
    _, height, width, _ = x.shape
    out = np.zeros_like(x)
    for row in range(height):
        for column in range(width):
            for i in range(side):
                for j in range(side):
                    y, z = row - i + reach, column - j + reach
                    if 0 <= y < height and 0 <= z < width:
                        out[:, row, column] += x[:, y, z] @ kernel[i, j]
    return out


def hgru_loop(params: Any, frames: np.ndarray) -> np.ndarray:
    """The paper's equations, with layer norms; frames (t, b, h, w, c); returns the last state."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    kernel = 0.5 * (p["kernel"] + p["kernel"].transpose(0, 1, 3, 2))
    state = np.zeros_like(frames[0])

    def gate(name: str, x: np.ndarray) -> np.ndarray:
        return sigmoid(layer_norm(p[f"norm_{name}"], dense(p[name] | {"bias": 0.0}, x)))

    for x in frames:
        inhibition = layer_norm(
            p["norm_inhibition"], convolved(gate("gain", state) * state, kernel)
        )
        below = np.tanh(x - inhibition * (p["alpha"] * state + p["mu"]))
        excitation = layer_norm(p["norm_excitation"], convolved(below, kernel))
        linear = p["kappa"] * below + p["beta"] * excitation
        new = np.tanh(linear + p["omega"] * below * excitation)
        mix = gate("mix", below)
        state = (1.0 - mix) * state + mix * new
    return state


def hgru(seq_len: int = 3) -> HGRUClassifier:
    return HGRUClassifier(
        ConvStem(4, jax.nn.relu), HGRUCell(4, 3), PooledReadout(2, jax.nn.relu, jnp.max), seq_len
    )


@functools.cache
def hgru_runs() -> dict[str, Any]:
    """All that the tests of the hGRU compare, from one compilation."""
    model, still = hgru(), draw(2, 12, 20, 3)
    video = np.repeat(still[:, None], 3, 1)
    video[:, 1:] += draw(2, 2, 12, 20, 3, seed=3)
    params = random_params(model, still)
    cell, frames = HGRUCell(4, 3), draw(3, 2, 4, 5, 4)

    def walk(params, frames):
        state = jnp.zeros_like(frames[0])
        for x in frames:
            state, _ = cell.apply({"params": params}, state, x)
        return state

    def total(params, x):
        return jnp.sum(model.apply({"params": params}, x) * jnp.asarray([[1.0, -0.5]] * 2))

    @fast_jit
    def run(params, still, video, frames):
        repeated = jnp.repeat(still[:, None], 3, 1)
        logits = functools.partial(model.apply, {"params": params})
        return {
            "cell": walk(params["cell"], frames),
            "still": logits(still),
            "repeated": logits(repeated),
            "video": logits(video),
            "shorter": logits(video[:, :2]),
            "gradients": jax.grad(total)(params, video),
        }

    out = jax.tree.map(np.asarray, run(params, still, video, frames))
    return out | {"params": params, "frames": frames, "stem": (model, params, video)}


def test_hgru_cell_equals_the_papers_equations() -> None:
    ours = hgru_runs()
    expected = hgru_loop(ours["params"]["cell"], ours["frames"].astype(np.float64))
    np.testing.assert_allclose(ours["cell"], expected, atol=1e-5)
    assert np.abs(expected).max() > 0.1


def test_hgru_classifier_reads_the_state_after_all_frames() -> None:
    """Stem, the loop over what comes out of it, readout."""
    ours = hgru_runs()
    model, params, video = ours["stem"]
    maps = model.stem.apply({"params": params}, video)
    state = hgru_loop(params["cell"], np.moveaxis(np.asarray(maps, np.float64), 1, 0))
    expected = model.readout.apply({"params": params}, state[:, None].astype(np.float32))
    np.testing.assert_allclose(ours["video"], expected, atol=2e-5)
    assert np.abs(ours["video"] - ours["shorter"]).max() > 1e-3


def test_hgru_shows_a_still_image_at_every_step() -> None:
    ours = hgru_runs()
    np.testing.assert_allclose(ours["still"], ours["repeated"], atol=1e-5)
    assert np.abs(ours["still"] - ours["video"]).max() > 1e-3


def test_hgru_gradients_are_finite_and_reach_every_parameter() -> None:
    for leaf in jax.tree.leaves(hgru_runs()["gradients"]):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0.0


def test_hgru_begins_with_gates_for_up_to_eight_steps() -> None:
    x = jnp.zeros((1, 4, 4, 64))
    params: Any = fast_jit(HGRUCell(64, 1).init)(jax.random.key(0), x, x)["params"]
    gain, mix = params["norm_gain"]["bias"], params["norm_mix"]["bias"]
    assert 0.0 <= gain.min() < 0.5 and 1.5 < gain.max() <= np.log(7.0)
    assert -np.log(7.0) <= mix.min() < -1.5 and -0.5 < mix.max() <= 0.0


def test_hgru_refuses_what_is_neither_image_nor_video() -> None:
    with pytest.raises(ValueError, match=r"expected images \(b, H, W, 3\)"):
        shapes_of(hgru(), jnp.zeros((4, 4, 3)))


@fast_jit
def vit_logits(params: Any, x: Any) -> Any:
    return VIT.apply({"params": params}, x)


def test_vit_sees_patches_as_a_set_with_positions() -> None:
    """Patches that move together with their positions change nothing; without them they do."""
    x = draw(2, 4, 6, 3)
    params = random_params(VIT, x)
    order = np.array([4, 2, 0, 5, 1, 3])
    tiles = x.reshape(2, 2, 2, 3, 2, 3).swapaxes(2, 3).reshape(2, 6, 2, 2, 3)[:, order]
    moved = tiles.reshape(2, 2, 3, 2, 2, 3).swapaxes(2, 3).reshape(x.shape)
    follow = params | {"pos_embed": params["pos_embed"][:, order]}
    straight = np.asarray(vit_logits(params, x))
    np.testing.assert_allclose(vit_logits(follow, moved), straight, atol=1e-5)
    assert np.abs(vit_logits(params, moved) - straight).max() > 1e-3


def test_vit_has_as_many_layers_as_it_says() -> None:
    """12 by default; each of 12 d^2 weights and 13 d biases and scales."""
    x = jnp.zeros((1, 8, 8, 3))
    shapes = shapes_of(ViT(8), x)
    layers = [shapes[name] for name in shapes if name.startswith("layer_")]
    assert len(layers) == 12
    assert [count(layer) for layer in layers] == 12 * [12 * 8**2 + 13 * 8]
    outside = (4 * 4 * 3 + 1) * 8 + 4 * 8 + 2 * 8 + (8 + 1) * 2
    assert count(shapes) == 12 * count(layers[0]) + outside


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ViT(10, heads=4), "width is 10; expected a multiple of 4 heads"),
        (lambda: ViT(8, depth=0), "depth is 0; expected 1 or more"),
        (lambda: ResNet(()), r"widths is \(\); expected one or more"),
        (lambda: ResNet((8,), blocks=0), "blocks is 0; expected 1 or more"),
        (lambda: shapes_of(VIT, jnp.zeros((1, 4, 5, 3))), "patch is 2; it does not divide"),
    ],
)
def test_fields_that_do_not_fit_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_resnet_parameters() -> None:
    """Convolutions without biases, two numbers a channel for each norm, shortcuts where needed."""
    shapes = shapes_of(RESNET, jnp.zeros((1, 8, 8, 3)))
    first = 9 * 3 * 3 + 2 * 9 * 3 * 3 + 3 * 6
    second = 9 * 3 * 4 + 9 * 4 * 4 + 3 * 4 + 3 * 8
    assert count(shapes) == first + second + (4 + 1) * 2
    assert "conv_shortcut" in shapes["block_1_0"] and "conv_shortcut" not in shapes["block_0_0"]
    deep = shapes_of(ResNet((4, 8, 8), blocks=3), jnp.zeros((1, 8, 8, 3)))
    assert sum(name.startswith("block_") for name in deep) == 9


def test_resnet_sees_as_far_as_its_convolutions_reach() -> None:
    """Per place: 1 + 2 (first) + 2 x 2 (stage of step 1) + 2 (to step 2) + 4 (at step 2) = 13."""
    x = draw(1, 33, 33, 3)
    params = random_params(RESNET, x)

    @fast_jit
    def seen(x):
        def centre(x):
            _, parts = RESNET.apply({"params": params}, x, capture_intermediates=True)
            last: Any = parts["intermediates"]["block_1_0"]["__call__"][0]
            return last[0, 8, 8].sum()

        return jnp.abs(jax.grad(centre)(x)).sum((0, -1))

    places = np.argwhere(np.asarray(seen(x)) > 0.0)
    assert places.min(0).tolist() == [10, 10] and places.max(0).tolist() == [22, 22]


@pytest.mark.parametrize("model", [VIT, RESNET], ids=["vit", "resnet"])
def test_gradients_are_finite_and_reach_every_parameter(model: Any) -> None:
    x = draw(2, 4, 4, 3)
    params = random_params(model, x)
    weights = jnp.asarray([[1.0, -0.5]] * 2)
    slope = fast_jit(
        jax.grad(lambda params: jnp.sum(weights * model.apply({"params": params}, x)))
    )(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(slope):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(leaf).all(), name
        if not name.endswith("key/bias"):  # adds the same to all scores of a query
            assert np.abs(leaf).max() > 1e-4, name


@pytest.mark.parametrize(
    "model",
    [
        HGRUClassifier(
            ConvStem(4, jax.nn.relu, jnp.bfloat16),
            HGRUCell(4, 3, jnp.bfloat16),
            PooledReadout(2, jax.nn.relu, jnp.max, jnp.bfloat16),
            3,
        ),
        ViT(8, heads=2, patch=2, depth=2, dtype=jnp.bfloat16),
        ResNet((3, 4), blocks=1, dtype=jnp.bfloat16),
    ],
    ids=["hgru", "vit", "resnet"],
)
def test_bfloat16_is_for_what_lies_between_parameters_and_logits(model: Any) -> None:
    def run(x):
        return model.init_with_output(jax.random.key(0), x, capture_intermediates=True)

    logits, variables = jax.eval_shape(run, jnp.zeros((2, 8, 8, 3)))
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype("float32")}
    inner = {leaf.dtype for leaf in jax.tree.leaves(variables["intermediates"])}
    assert jnp.dtype("bfloat16") in inner
