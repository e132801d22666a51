"""Text from a model, token by token, and what it says of a prefix alone."""

import functools
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from common.array_types import Array, Float, Int, PRNGKey, PyTree
from convattn.model import LanguageModel


@functools.partial(jax.jit, static_argnames=("model", "count", "temperature", "top"))
def generate(
    model: LanguageModel,
    variables: Mapping[str, PyTree],
    prompt: Int[Array, "b t"],
    count: int,
    rng: PRNGKey | None = None,
    *,
    temperature: float = 1.0,
    top: int | None = None,
) -> Int[Array, "b count"]:
    """Continues prompts; keys, values and the convolutions' last inputs are kept between tokens.

    Args:
        model: a causal model.
        variables: {'params': params}.
        prompt: one token at least.
        count: number of tokens to draw.
        rng: source of chance; may be None at temperature 0.
        temperature: divides the logits; 0 takes the most probable token.
        top: number of most probable tokens to draw from; all where None.

    Returns:
        The new tokens.

    Raises:
        ValueError: an empty prompt, a negative temperature, or chance without a source.
    """
    _check(prompt, count, rng, temperature, top)
    batch, length = prompt.shape
    state = model.init_state(batch, length + count)
    keys = jax.random.split(jax.random.key(0) if rng is None else rng, count)
    logits, state = model.apply(variables, prompt, state, method="extend")

    def step(carry: tuple[Array, PyTree], key: PRNGKey) -> tuple[tuple[Array, PyTree], Array]:
        logits, state = carry
        token = _drawn(logits, key, temperature, top)
        logits, state = model.apply(variables, token[:, None], state, method="extend")
        return (logits[:, -1], state), token

    _, tokens = jax.lax.scan(step, (logits[:, -1], state), keys)
    return tokens.T


def streamed_logits(
    model: LanguageModel, variables: Mapping[str, PyTree], tokens: Int[Array, "b t"]
) -> Float[Array, "b t v"]:
    """Returns the logits of a model that is given one token at a time.

    Args:
        model: a causal model.
        variables: {'params': params}.
        tokens: sequences.
    """
    state = model.init_state(*tokens.shape)

    def step(state: PyTree, token: Array) -> tuple[PyTree, Array]:
        logits, state = model.apply(variables, token[:, None], state, method="extend")
        return state, logits[:, 0]

    _, logits = jax.lax.scan(step, state, tokens.T)
    return jnp.swapaxes(logits, 0, 1)


def prefix_logits(
    model: LanguageModel,
    variables: Mapping[str, PyTree],
    tokens: Int[Array, "b t"],
    lengths: Iterable[int],
) -> Float[Array, "b n v"]:
    """Returns for each length what the model says next when it is given that many tokens alone.

    The honest test of any model, also of one that looks ahead: nothing else is there to be seen.
    For a causal model these are rows of the logits of the whole sequences. It compiles once for
    each length.

    Args:
        model: any model.
        variables: {'params': params}.
        tokens: sequences.
        lengths: n lengths of prefixes, from 1 to t.
    """
    apply = jax.jit(model.apply)
    rows = [apply(variables, tokens[:, :length])[:, -1] for length in lengths]
    return jnp.stack(rows, axis=1)


def _drawn(
    logits: Float[Array, "b v"], key: PRNGKey, temperature: float, top: int | None
) -> Int[Array, "b"]:
    """Draws a token of each row."""
    if temperature == 0:
        return logits.argmax(-1).astype(jnp.int32)
    if top is not None:
        least = jax.lax.top_k(logits, top)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits / temperature).astype(jnp.int32)


def _check(
    prompt: Array, count: int, rng: PRNGKey | None, temperature: float, top: int | None
) -> None:
    """Refuses what cannot be continued."""
    if prompt.ndim != 2 or not prompt.shape[1]:
        raise ValueError(f"prompt has shape {prompt.shape}; expected (b, t) with t of 1 or more")
    if count < 1:
        raise ValueError(f"count is {count}; expected 1 or more")
    if temperature < 0:
        raise ValueError(f"temperature is {temperature}; expected 0 or more")
    if temperature and rng is None:
        raise ValueError("rng is None; drawing tokens needs a key, or a temperature of 0")
    if top is not None and top < 1:
        raise ValueError(f"top is {top}; expected 1 or more")
