"""One suite for every block: against its loop, still images, the last frame alone, gradients."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.kernels import linear_scan
from common.nn import no_rotation, rotate_spacetime
from cssm.blocks import (
    GatedDeltaBlock,
    PartialReadoutBlock,
    SpatialAttentionBlock,
    SteadyGatesBlock,
    TransformerBlock,
)
from cssm.blocks.gated_delta import memory_transition, memory_writes
from cssm.simple import BLOCKS
from tests.cssm.loops import LOOPS

BATCH, STEPS, SIZE, CHANNELS = 2, 4, (4, 5), 8  # six at least, for a pair that turns with time
TOLERANCE = 1e-5  # of the largest value
ABLATIONS = tuple(name for name in BLOCKS if name.startswith("transformer_"))
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
each_block = pytest.mark.parametrize("name", LOOPS)


def make_block(name: str, rotary: Any = no_rotation) -> Any:
    return BLOCKS[name](CHANNELS, 3, rotary)


def images(steps: int) -> Any:
    shape = (BATCH, steps, *SIZE, CHANNELS)
    return np.random.default_rng(steps).standard_normal(shape).astype(np.float32)


def random_params(block: Any, x: np.ndarray) -> Any:
    """Parameters of order one in all entries, biases and scales too, so that none is idle."""
    shapes = jax.eval_shape(lambda x: block.init(jax.random.key(0), x, STEPS), x)["params"]
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda s: 0.4 * rng.standard_normal(s.shape).astype(np.float32), shapes)


@functools.cache
def results(name: str) -> dict[str, Any]:
    """All that the tests below compare, from one compilation a block."""
    rotary = no_rotation if name == "transformer_steady_gates" else rotate_spacetime
    block = make_block(name, rotary)
    video, still = images(STEPS), images(1)
    params = random_params(block, video)
    weights = np.random.default_rng(3).standard_normal((BATCH, 1, *SIZE, CHANNELS))
    weights = weights.astype(np.float32)

    def objective(params, x, last_only):
        out = block.apply({"params": params}, x, STEPS, last_only)
        return jnp.vdot(weights, out[-BATCH:, -1:]), out

    slope = jax.value_and_grad(objective, (0, 1), has_aux=True)

    @fast_jit
    def run(params, video, still):
        both = jnp.concatenate([video, jnp.repeat(still, STEPS, 1)])
        (_, of_both), (of_params, of_frames) = slope(params, both, False)
        (_, still_last), still_gradient = slope(params, still, True)
        return {
            "video": of_both[:BATCH],
            "last": block.apply({"params": params}, video, STEPS, True),
            "still": block.apply({"params": params}, still, STEPS),
            "still_last": still_last,
            "repeated": of_both[BATCH:],
            "still_gradient": still_gradient,
            "repeated_gradient": (of_params, of_frames[BATCH:]),
        }

    out = jax.tree.map(np.asarray, run(params, video, still))
    return out | {"params": params, "turned": np.asarray(rotary(video, STEPS))}


def assert_close(actual: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < tolerance * np.abs(expected).max()


@each_block
def test_block_equals_its_loop(name: str) -> None:
    ours = results(name)
    assert_close(ours["video"], LOOPS[name](ours["params"], ours["turned"]))


@each_block
def test_last_frame_alone_is_the_last_of_all(name: str) -> None:
    ours = results(name)
    assert_close(ours["last"], ours["video"][:, -1:])


@each_block
def test_still_image_equals_its_repetition(name: str) -> None:
    ours = results(name)
    assert_close(ours["still"], ours["repeated"])
    assert_close(ours["still_last"], ours["repeated"][:, -1:])


def test_a_still_image_enters_at_every_step_also_without_positions() -> None:
    """Where no rotation repeats the frame: this block counts its steps by frames."""
    block, still = make_block("no_fft"), images(1)
    params = random_params(block, still)
    run = fast_jit(lambda x: block.apply({"params": params}, x, STEPS))
    assert_close(run(still), run(np.repeat(still, STEPS, 1)))


@each_block
def test_gradients_of_a_still_image_are_those_of_its_repetition(name: str) -> None:
    """Of the last frame; what a still image gets is the sum over its repetitions."""
    (params, still), (others, video) = (
        results(name)[f"{kind}_gradient"] for kind in ("still", "repeated")
    )
    assert_close(still, video.sum(1, keepdims=True), 5 * TOLERANCE)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(others))
    for mine, other in zip(jax.tree.leaves(params), jax.tree.leaves(others), strict=True):
        assert np.isfinite(mine).all()
        np.testing.assert_allclose(mine, other, rtol=0, atol=5 * TOLERANCE * largest)
        assert np.abs(other).max() > 0.0


@each_block
def test_intermediates_have_time_in_front(name: str) -> None:
    """Gates (T, b, ...) and what is read of the states, (T, b, h, w, c, n), as in reports."""
    block, x = make_block(name), images(STEPS)
    _, sown = jax.eval_shape(
        lambda: block.init_with_output(
            jax.random.key(0), x, STEPS, mutable=["intermediates", "params"]
        )
    )
    sown = sown.get("intermediates", {})
    for gate in sown.get("gates", [{}])[0].values():
        assert gate.shape[:2] == (STEPS, BATCH)
    if name != "spatial_attn":
        assert sown["states"][0].shape[:-1] == (STEPS, BATCH, *SIZE, CHANNELS)
    assert ("gates" in sown) == (name not in ("standard", "spatial_attn"))


def flattened_shapes(block: Any) -> dict[str, tuple[int, ...]]:
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), images(1), STEPS))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves
    }


def layers(block: Any) -> set[str]:
    return {name.split("/")[0] for name in flattened_shapes(block)}


@pytest.mark.parametrize(
    ("name", "arrays", "gates"),
    [
        (
            "hgru_bi",
            {"k_exc": (8, 3, 3), "k_inh": (8, 3, 3)},
            "decay_x_gate decay_y_gate decay_z_gate mu_inhib_gate mu_excit_gate alpha_inhib_gate "
            "alpha_excit_gate gamma_gate delta_gate B_gate D_gate E_gate C_gate",
        ),
        ("gated", {"kernel": (8, 3, 3)}, "delta_gate B_gate C_gate"),
    ],
)
def test_parameter_tree_of_the_public_code(name: str, arrays: dict, gates: str) -> None:
    """A map of 4 x 5 has 4 x 3 frequencies."""
    expected = dict(arrays)
    if name == "hgru_bi":
        expected |= {"input_proj/kernel": (8, 24), "input_proj/bias": (24,)}
        expected |= {"output_proj/kernel": (24, 8), "output_proj/bias": (8,)}
    for gate in gates.split():
        expected |= {f"{gate}/kernel": (8, 12), f"{gate}/bias": (12,)}
    assert flattened_shapes(make_block(name)) == expected


def test_ablations_change_the_parameters_as_they_say() -> None:
    whole = layers(make_block("transformer"))
    expected = dict.fromkeys(ABLATIONS, whole)
    expected["transformer_asymmetric"] = whole - {"w_qk"} | {"w_k_to_q", "w_q_to_k"}
    expected["transformer_no_feedback"] = whole - {"alpha"}
    expected["transformer_no_key"] = whole - {"w_qk", "decay_K", "B_K"}
    for name in ABLATIONS:
        assert layers(make_block(name)) == expected[name], name
    two_states = flattened_shapes(make_block("transformer_read_qa"))
    assert two_states["output_proj/kernel"] == (2 * CHANNELS, CHANNELS)
    no_key = flattened_shapes(make_block("transformer_no_key"))
    assert no_key["input_proj/kernel"] == (CHANNELS, 2 * CHANNELS)


def test_initial_kernels_have_the_public_code_s_spread() -> None:
    for name, deviation in (("gated", 0.02), ("hgru_bi", (32 * 5) ** -0.5)):
        block = BLOCKS[name](32, 5, no_rotation)
        x = jnp.zeros((1, 1, 4, 4, 32))
        params = jax.jit(block.init, static_argnums=2)(jax.random.key(0, impl="rbg"), x, 1)
        kernel = params["params"]["kernel" if name == "gated" else "k_inh"]
        assert abs(np.std(kernel) - deviation) < 5 * deviation / np.sqrt(2 * kernel.size)


def test_steady_gates_do_not_see_the_position() -> None:
    turned, plain = (
        SteadyGatesBlock(CHANNELS, 3, rotary) for rotary in (rotate_spacetime, no_rotation)
    )
    video = images(STEPS)
    params = random_params(plain, video)

    @fast_jit
    def gates(params, x):
        runs = (
            block.apply({"params": params}, x, STEPS, mutable=["intermediates"])
            for block in (turned, plain)
        )
        return [run[1]["intermediates"]["gates"][0] for run in runs]

    first, second = gates(params, video)
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (PartialReadoutBlock(8, 3, no_rotation, read=("X",)), r"read is \('X',\); choose .*'Q'"),
        (PartialReadoutBlock(8, 3, no_rotation, read=()), r"read is \(\); choose one or more"),
        (GatedDeltaBlock(8, 3, no_rotation, key_size=3), "8 channels .* heads of 3"),
        (SpatialAttentionBlock(8, 3, no_rotation, heads=3), "8 channels .* 3 heads"),
    ],
)
def test_fields_that_do_not_fit_are_named(block: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flattened_shapes(block)


def delta_by(origin: Any) -> np.ndarray:
    """Where a point at (1, 2) of a 6 x 8 map lies after one pass through a delta kernel."""
    block = BLOCKS["standard"](2, 3, no_rotation, origin)
    kernel = np.zeros((2, 3, 3), np.float32)
    kernel[:, 1, 1] = 1.0
    video = np.zeros((1, 2, 6, 8, 2), np.float32)
    video[:, 0, 1, 2] = 1.0
    out: Any = jax.jit(block.apply, static_argnums=2)({"params": {"kernel": kernel}}, video, 2)
    return np.asarray(out[0, 1, ..., 0])


def test_delta_stays_with_one_origin_and_moves_with_the_other() -> None:
    """The bound makes 0.999 / 2 of a delta's spectrum; upstream also moves it by half the map."""
    stays, moves = np.zeros((6, 8)), np.zeros((6, 8))
    stays[1, 2] = 0.4995
    moves[(1 + 2) % 6, (2 + 3) % 8] = 0.4995  # floor((h - 1) / 2), floor((w - 1) / 2)
    np.testing.assert_allclose(delta_by("centre"), stays, atol=1e-6)
    np.testing.assert_allclose(delta_by("upstream"), moves, atol=1e-6)


def test_delta_rule_replaces_what_a_key_held() -> None:
    """Writing with beta = 1 and reading with the same complex key gives the value, twice."""
    rng = np.random.default_rng(0)
    shape = (1, 1, 1, 1, 2, 3)  # two steps, keys of three components
    key = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    key = np.broadcast_to(key[..., :1, :], shape) / np.linalg.norm(key[..., :1, :])
    value = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    key, value = jnp.asarray(key, jnp.complex64), jnp.asarray(value, jnp.complex64)
    one = jnp.ones((1, 1, 1, 1, 2, 1))
    states: Any = linear_scan(
        memory_transition(one, one, one[..., :1, :], key), memory_writes(one, value, key)
    )
    read = jnp.swapaxes((states * key[..., None, :, :]).sum(-1), -1, -2)
    np.testing.assert_allclose(read, value, atol=1e-6)


def test_transformer_is_the_first_with_its_parameters() -> None:
    """Which `checkpoint_to_model` relies on."""
    first = next(n for n in BLOCKS if layers(make_block(n)) == layers(make_block("transformer")))
    assert BLOCKS[first] is TransformerBlock
