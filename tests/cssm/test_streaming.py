"""A sequence in pieces gives the numbers of the whole sequence, and compiles once."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from common.nn import LearnedTime, SinusoidalTime, rotate_spacetime, rotate_time
from cssm import SimpleCSSM
from cssm.simple import BLOCKS

FRAMES, SIZE, CHANNELS = 500, (2, 3), 8
fast_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def random_params(shapes: Any) -> Any:
    """Parameters of order one, but for small kernels, with which every recurrence decays."""
    rng = np.random.default_rng(2)
    flat: Any = flatten_dict(shapes["params"])
    spread = {name: 0.02 if name[-1] in ("k_exc", "k_inh") else 0.4 for name in flat}
    spread |= {name: 0.02 for name in flat if name[-1] == "kernel" and len(flat[name].shape) == 3}
    return unflatten_dict(
        {
            name: (spread[name] * rng.standard_normal(leaf.shape)).astype(np.float32)
            for name, leaf in flat.items()
        }
    )


def video(steps: int, *shape: int) -> Any:
    return np.random.default_rng(0).standard_normal((2, steps, *shape)).astype(np.float32)


def assert_close(actual: Any, expected: Any, tolerance: float = 2e-5) -> None:
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize(
    "name",
    [
        "transformer",
        "transformer_steady_gates",
        "gated",
        "standard",
        "gdn",
        "no_fft",
        "spatial_attn",
    ],
)
def test_block_frame_by_frame_equals_all_frames_at_once(name: str) -> None:
    """At every length up to 500, as no frame sees later ones."""
    block: Any = BLOCKS[name](CHANNELS, 3, rotate_spacetime)
    x = video(FRAMES, *SIZE, CHANNELS)
    params = random_params(jax.eval_shape(lambda: block.init(jax.random.key(0), x[:, :1], 1)))

    @fast_jit
    def run(params, x):
        def step(carry, frame):
            state, time = carry
            out, state = block.apply(
                {"params": params}, frame[:, None], 1, state, time, method="advance"
            )
            return (state, time + 1), out[:, 0]

        zeros = jax.tree.map(
            jnp.zeros_like, block.apply({"params": params}, x[:, :1], 1, method="advance")[1]
        )
        _, streamed = jax.lax.scan(step, (zeros, 0), jnp.moveaxis(x, 1, 0))
        return block.apply({"params": params}, x, FRAMES), jnp.moveaxis(streamed, 0, 1)

    whole, streamed = jax.tree.map(np.asarray, run(params, x))
    for steps in (1, 7, 64, FRAMES):
        assert_close(streamed[:, :steps], whole[:, :steps])
    if name != "spatial_attn":  # early frames matter later: what is carried is not idle
        assert np.abs(streamed[:, 1] - block_alone(block, params, x[:, 1:2])).max() > 1e-3


@functools.partial(fast_jit, static_argnums=0)
def block_alone(block, params, frame):
    return block.apply({"params": params}, frame, 1)[:, 0]


@functools.cache
def streamed_model() -> tuple[Any, Any, Any]:
    model = SimpleCSSM(embed_dim=6, depth=2, kernel_size=3, cssm_type="transformer_stable")
    x = video(FRAMES, 8, 12, 3)
    params = random_params(jax.eval_shape(model.init, jax.random.key(0), x[:, 0]))
    return model, {"params": params}, x


def counted(model: Any) -> tuple[Any, list[tuple[int, ...]]]:
    """The compiled step, and the shapes that it was compiled for."""
    traced = []

    @fast_jit
    def step(variables, frames, state):
        traced.append(frames.shape)
        return model.apply(variables, frames, state, method="step")

    return step, traced


@pytest.mark.slow
def test_model_frame_by_frame_equals_the_whole_at_every_length() -> None:
    """With one compilation; the whole is compiled for each of its lengths."""
    model, variables, x = streamed_model()
    step, traced = counted(model)
    state, lengths = model.init_state(x[:, 0]), (1, 7, 64, FRAMES)
    for time in range(FRAMES):
        logits, state = step(variables, x[:, time], state)
        assert int(state.time) == time + 1
        if time + 1 in lengths:
            assert_close(logits, fast_jit(model.apply)(variables, x[:, : time + 1]))
    assert traced == [(2, 8, 12, 3)]


def test_pieces_of_several_frames_start_where_the_last_ended() -> None:
    model, variables, x = streamed_model()
    step, traced = counted(model)
    state = model.init_state(jax.ShapeDtypeStruct((2, 1, 8, 12, 3), jnp.float32))
    for first in range(0, 64, 16):
        logits, state = step(variables, x[:, first : first + 16], state)
    assert_close(logits, fast_jit(model.apply)(variables, x[:, :64]))
    assert len(traced) == 1


def test_state_may_be_left_out_before_the_first_frame() -> None:
    model, variables, x = streamed_model()
    first = functools.partial(model.apply, variables, method="step")
    zeros = model.init_state(x[:, :16])
    with_zeros, without = (jax.eval_shape(first, x[:, :4], *state) for state in ([zeros], []))
    assert with_zeros == without
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), zeros) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), without[1]
    )
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(zeros))


@pytest.mark.parametrize("code", [SinusoidalTime(), LearnedTime(12), rotate_time])
def test_time_codes_take_a_traced_start(code: Any) -> None:
    x = video(9, 2, 2, 6)
    table = {"params": {"temporal_embed": np.random.default_rng(1).standard_normal((12, 6))}}
    call = code if code is rotate_time else functools.partial(code.apply, table)
    whole = np.asarray(fast_jit(lambda x: call(x, 9))(x))
    piece = fast_jit(lambda x, start: call(x, 4, start))(x[:, 5:], 5)
    np.testing.assert_allclose(piece, whole[:, 5:], atol=2e-6)


def test_learned_times_that_there_are_none_of_are_not_made_up() -> None:
    model = SimpleCSSM(embed_dim=6, kernel_size=3, pos_embed="separate", max_seq_len=3)
    x = video(4, 8, 8, 3)
    variables = {"params": random_params(jax.eval_shape(model.init, jax.random.key(0), x))}
    step, _ = counted(model)
    state, finite = model.init_state(x[:, 0]), []
    for frame in np.moveaxis(x, 1, 0):
        logits, state = step(variables, frame, state)
        finite.append(bool(np.isfinite(logits).all()))
    assert finite == [True, True, True, False]


def test_readout_of_all_frames_is_refused() -> None:
    model = SimpleCSSM(embed_dim=6, kernel_size=3, readout="all")
    with pytest.raises(ValueError, match="step needs readout 'last'"):
        model.init_state(jnp.zeros((1, 8, 8, 3)))


def test_other_ranks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected images .* got \(8, 8\)"):
        SimpleCSSM(embed_dim=6).init_state(jnp.zeros((8, 8)))
