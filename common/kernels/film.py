"""Feature-wise linear modulation, y = gamma * x + beta over the channels.

Perez et al. 2018, "FiLM: Visual Reasoning with a General Conditioning Layer", section 2.
"""

import jax.numpy as jnp

from common.array_types import Array, Float


def film(
    x: Float[Array, "*b c"],
    gamma: Float[Array, "*s c"],
    beta: Float[Array, "*s c"],
) -> Float[Array, "*b c"]:
    """Scales and shifts every channel of x.

    gamma and beta may have fewer axes than x: theirs are the *leading* axes of x, and the channels.
    (b, c) conditions every sample of (b, h, w, c) or (b, t, c); (b, t, c) every frame of
    (b, t, h, w, c); (c,) everything alike. With as many axes as x they condition every position.
    An axis of length 1 is repeated. The arithmetic is in float32 at least, the result has the dtype
    of x. gamma = 1 and beta = 0 are the identity, see `film_parameters`.

    Raises:
        ValueError: gamma or beta does not fit x.
    """
    wide = jnp.promote_types(jnp.result_type(x, gamma, beta), jnp.float32)
    scale, shift = (
        _aligned(name, array, x.shape).astype(wide)
        for name, array in (("gamma", gamma), ("beta", beta))
    )
    return (scale * x.astype(wide) + shift).astype(x.dtype)


def film_parameters(
    generated: Float[Array, "*s 2c"],
) -> tuple[Float[Array, "*s c"], Float[Array, "*s c"]]:
    """Splits what a generator puts out into gamma and beta, gamma = 1 + the first half.

    So zeros are the identity: a last layer of zeros makes FiLM one at initialisation, and weight
    decay draws it there.

        y = film(x, *film_parameters(nn.Dense(2 * c, kernel_init=zeros)(condition)))

    In float32 at least, so that a small difference from 1 is kept.

    Raises:
        ValueError: the last axis is odd.
    """
    if generated.shape[-1] % 2:
        raise ValueError(f"{generated.shape[-1]} values do not split into gamma and beta")
    wide = generated.astype(jnp.promote_types(generated.dtype, jnp.float32))
    delta, beta = jnp.split(wide, 2, axis=-1)
    return 1.0 + delta, beta


def _aligned(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    """Returns the array with axes of length 1 put in before the channels, to the rank of x."""
    missing = len(shape) - array.ndim
    if array.ndim and missing >= 0:
        expanded = (*array.shape[:-1], *(1,) * missing, array.shape[-1])
        fits = all(a in (1, s) for a, s in zip(expanded[:-1], shape[:-1], strict=True))
        if fits and expanded[-1] == shape[-1]:
            return array.reshape(expanded)
    raise ValueError(f"{name} {array.shape} does not fit x {shape}")
