"""Random inputs and parameters, none of them zero."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def normal(seed, *shape):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def fresh(module, *inputs, seed=0, **options):
    """Parameters as they are at the start."""
    make = functools.partial(module.init, **options)
    rngs = {"params": jax.random.key(seed), "slots": jax.random.key(seed)}
    return {"params": jax.jit(make)(rngs, *inputs)["params"]}


def noisy(module, *inputs, seed=0, scale=0.3, **options):
    """Parameters at the start plus noise, so that no gate, bias or norm is at rest."""
    shapes = jax.eval_shape(functools.partial(module.init, **options), rngs(seed), *inputs)[
        "params"
    ]
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        width = leaf.shape[0] if len(leaf.shape) == 2 else 1
        value = rng.standard_normal(leaf.shape) * (width**-0.5 if width > 1 else scale)
        return jnp.asarray(value + (path[-1].key == "scale"), jnp.float32)

    return {"params": jax.tree_util.tree_map_with_path(draw, shapes)}


def rngs(seed=0):
    return {name: jax.random.key(seed) for name in ("params", "slots")}


def layer_norm(x, part, epsilon):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon) * part["scale"] + part["bias"]


def softmax(x, axis=-1):
    x = np.exp(x - x.max(axis, keepdims=True))
    return x / x.sum(axis, keepdims=True)


def float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def require_finite_gradients(module, variables, *inputs, **options):
    """Every parameter has a finite gradient, and none is without one."""
    shape = jax.eval_shape(lambda: module.apply(variables, *inputs, **options)).shape
    cotangent = normal(9, *shape)

    def loss(params):
        return (module.apply({"params": params}, *inputs, **options) * cotangent).sum()

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path
