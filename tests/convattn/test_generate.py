"""Generated tokens are those that the model itself finds most probable, or draws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from convattn import Sizes, conv_attn, generate, hybrid

SIZES = Sizes(vocabulary=13, width=8, heads=2, length=16)


@functools.cache
def trained_enough():
    """A model whose logits differ, and prompts."""
    model = hybrid(SIZES)
    prompt = jax.random.randint(jax.random.key(1), (3, 4), 0, SIZES.vocabulary)
    variables = jax.jit(model.init)(jax.random.key(0), prompt)
    variables = jax.tree.map(lambda x: 3.0 * x, variables)
    return model, variables, prompt


def test_greedy_text_is_the_argmax_of_whole_sequences():
    model, variables, prompt = trained_enough()
    found = generate(model, variables, prompt, 6, temperature=0.0)
    tokens = jnp.concatenate([prompt, found], axis=1)
    best = jax.jit(model.apply)(variables, tokens).argmax(-1)
    np.testing.assert_array_equal(found, best[:, 3:-1])
    assert len(np.unique(found)) > 3


def test_drawn_tokens_have_the_model_s_frequencies():
    model, variables, prompt = trained_enough()
    many = jnp.repeat(prompt[:1], 4000, axis=0)
    found = generate(model, variables, many, 1, jax.random.key(3), temperature=2.0)
    expected = jax.nn.softmax(jax.jit(model.apply)(variables, prompt[:1])[0, -1] / 2.0)
    shares = np.bincount(np.asarray(found)[:, 0], minlength=SIZES.vocabulary) / 4000
    np.testing.assert_allclose(shares, expected, atol=0.035)
    assert generate(model, variables, many, 1, jax.random.key(3), temperature=2.0).tolist() == (
        found.tolist()
    )


def test_top_leaves_the_most_probable():
    model, variables, prompt = trained_enough()
    many = jnp.repeat(prompt[:1], 500, axis=0)
    found = generate(model, variables, many, 1, jax.random.key(3), temperature=5.0, top=3)
    best = jax.lax.top_k(jax.jit(model.apply)(variables, prompt[:1])[0, -1], 3)[1]
    assert set(np.unique(found)) == set(np.asarray(best).tolist())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": jnp.zeros((1, 0), jnp.int32)}, "prompt has shape"),
        ({"count": 0}, "count is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": 1.0}, "rng is None"),
        ({"temperature": 0.0, "top": 0}, "top is 0"),
    ],
)
def test_what_cannot_be_continued_is_refused(arguments, message):
    given = {"prompt": jnp.zeros((1, 2), jnp.int32), "count": 1} | arguments
    with pytest.raises(ValueError, match=message):
        generate(conv_attn(SIZES), {}, **given)
