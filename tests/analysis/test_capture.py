import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from common.analysis import capture
from cssm import SimpleCSSM


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.sow("intermediates", "gates", {"fast": x + 1, "deep": {"slow": x + 2}})
        return 2 * x


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
        inner = Inner(name="block")
        for i in range(2):
            self.sow("intermediates", "seen", x + i)
        x = inner(x)
        self.sow("intermediates", "after", x)
        return x.sum(-1)


def test_names_and_values():
    x = jnp.arange(3.0)
    output, named = capture(Outer(), {}, x)
    assert output == 6.0
    assert set(named) == {
        "seen/0",
        "seen/1",
        "block/gates/fast",
        "block/gates/deep/slow",
        "after",
    }
    np.testing.assert_array_equal(named["seen/1"], x + 1)
    np.testing.assert_array_equal(named["block/gates/deep/slow"], x + 2)
    np.testing.assert_array_equal(named["after"], 2 * x)


def test_intermediates_of_an_earlier_pass_are_not_counted():
    x = jnp.ones(3)
    _, earlier = Outer().apply({}, x, mutable=["intermediates"])
    named = capture(Outer(), earlier, 2 * x)[1]
    np.testing.assert_array_equal(named["after"], 4 * x)


def test_model_of_the_project_under_jit():
    model = SimpleCSSM(embed_dim=4, kernel_size=3, seq_len=3)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    logits, named = jax.jit(lambda v, x: capture(model, v, x))(variables, x)
    np.testing.assert_allclose(logits, jax.jit(model.apply)(variables, x), atol=1e-5)
    assert named["pre_cssm"].shape == (2, 1, 2, 2, 4)
    assert named["cssm_0/states"].shape == (3, 2, 2, 2, 4, 3)
    assert {name for name in named if name.startswith("cssm_0/gates/")} == {
        f"cssm_0/gates/{gate}"
        for gate in "decay_Q decay_K decay_A w_qk alpha gamma B_Q B_K B_A C_gate".split()
    }
