"""The stem in chunks of frames against the stem of all of them at once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.compiled import temporary_bytes
from cssm import stem
from cssm.norms import batch_norm, layer_norm
from cssm.stem import ConvStem


def draw(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def loops_of(function: Any, *arguments: Any) -> int:
    # a lambda of its own, as JAX keeps traces by function
    return str(jax.make_jaxpr(lambda *a: function(*a))(*arguments)).count("= scan[")


def test_chunks_of_frames_have_the_values_and_gradients_of_the_whole(monkeypatch) -> None:
    model, x = ConvStem(4, jax.nn.softplus), draw(2, 3, 10, 13, 3)
    variables = model.init(jax.random.key(0), x)
    weights = draw(2, 3, 3, 4, 4)

    def loss(variables, x):
        return jnp.vdot(model.apply(variables, x), weights)

    whole = jax.jit(jax.value_and_grad(loss, (0, 1)))(variables, x)
    assert loops_of(loss, variables, x) == 0
    monkeypatch.setattr(stem, "CHUNK_BYTES", 2 * 10 * 13 * 4 * 4)  # two frames
    assert loops_of(loss, variables, x) == 1
    chunked = jax.jit(jax.value_and_grad(loss, (0, 1)))(variables, x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), chunked, whole
    )
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(whole[1])) > 0.1


@pytest.mark.parametrize(("norm", "training", "loops"), [
    (layer_norm, True, 1), (batch_norm, False, 1), (batch_norm, True, 0),
])  # fmt: skip
def test_a_norm_that_learns_sees_all_frames(norm, training, loops, monkeypatch) -> None:
    model, x = ConvStem(2, jax.nn.relu, norm=norm), draw(1, 4, 8, 8, 3)
    variables = model.init(jax.random.key(0), x)
    monkeypatch.setattr(stem, "CHUNK_BYTES", 1)
    mutable = ["batch_stats"] if training else False
    assert loops_of(lambda v: model.apply(v, x, training, mutable=mutable), variables) == loops


def test_memory_of_a_long_video_is_that_of_its_maps() -> None:
    """Not that of the maps of the images' size, 16 times as much for each of several layers."""
    model, x = ConvStem(32, jax.nn.softplus), jax.ShapeDtypeStruct((1, 32, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    slope = jax.jit(jax.grad(lambda v, x: jnp.sum(model.apply(v, x) ** 2)))
    of_the_images_size = 32 * 64 * 64 * 32 * 4
    assert temporary_bytes(slope.lower(variables, x).compile()) < of_the_images_size
