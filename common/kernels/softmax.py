"""Softmax over a last axis, whose gradient reads its result alone."""

import jax
import jax.numpy as jnp

from common.array_types import Array, Float


def softmax(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """Returns exp(x) / sum exp(x), where the sum is over the last axis.

    On a CPU the gradient y (dy - sum y dy) is written out: of the function of JAX, XLA computes y
    anew in the gradient. Forward mode can be taken of that gradient, not of the function itself.

    Args:
        x: numbers; each row needs a finite one.
    """
    if jax.default_backend() == "cpu":
        return _with_own_gradient(x)
    return jax.nn.softmax(x, axis=-1)


def _softmax(x: Array) -> Array:
    exponentials = jnp.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


_with_own_gradient = jax.custom_vjp(_softmax)


def _forward(x: Array) -> tuple[Array, Array]:
    y = _softmax(x)
    return y, y


def _backward(y: Array, cotangent: Array) -> tuple[Array]:
    return (y * (cotangent - (y * cotangent).sum(-1, keepdims=True)),)


_with_own_gradient.defvjp(_forward, _backward)
