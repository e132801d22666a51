"""One optimizer step, compiled."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from common.array_types import Array, PRNGKey, PyTree
from common.kernels.spread import spread
from common.train.state import TrainState
from common.train.task import Batch, Loss, Params, Task, objective

TrainStep = Callable[[TrainState, Batch], TrainState]


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    log_every: int,
    max_skipped_steps: int = 0,
    accumulate: int = 1,
    shardings: PyTree = None,
) -> TrainStep:
    """Returns the jitted function that takes a state and a batch to the next state.

    The old state is donated: it must not be used again. Metrics are summed on the device in
    `state.totals`, which start anew after every `log_every` steps, so that no step waits for a
    transfer and a resumed run continues the same sums.

    A step whose loss or gradient norm is not finite is noted in `state.skips`. If it is one more
    than may be skipped, the run is over with it. Steps that may be skipped leave parameters,
    optimizer and sums as they were; where none may, the state is not to be used after one. To
    choose between old and new makes another program, which rounds otherwise: runs with
    `max_skipped_steps` of 0 and of more agree to rounding only.

    Args:
        task: Supplies the loss.
        optimizer: Turns gradients into updates.
        log_every: Number of steps whose metrics are summed together.
        max_skipped_steps: Number of skipped steps after which training can go on.
        accumulate: Number of equal parts that a batch is taken in, one after the other, for less
            memory; gradient and metrics are the means over the parts, each with its own key.
        shardings: Where each array of the state lies; left to XLA where None.
    """
    gradient = jax.value_and_grad(objective(task), has_aux=True)
    if accumulate > 1:
        gradient = _in_parts(gradient, accumulate)

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        rng = jax.random.fold_in(state.rng, state.step)
        (loss, metrics), gradients = gradient(state.params, batch, rng, state.step)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        values = {"loss": loss, **metrics, "gradient_norm": optax.tree.norm(gradients)}
        finite = jnp.isfinite(loss) & jnp.isfinite(values["gradient_norm"])
        running = state.skips.count <= max_skipped_steps
        begins = state.step % log_every == 0
        old = _Learned(state.params, state.opt_state, _begun(state.totals, begins))
        new = _Learned(
            params,
            opt_state,
            {
                name: total + jnp.asarray(values[name], jnp.float32)
                for name, total in old.totals.items()
            },
        )
        if max_skipped_steps:
            new = jax.tree.map(lambda x, y: jnp.where(finite & running, x, y), new, old)
        return state.replace(
            step=state.step + 1,
            skips=state.skips.noting(running & ~finite, begins, state.step + 1, values),
            **new._asdict(),
        )

    return jax.jit(train_step, donate_argnums=0, out_shardings=shardings)


def _in_parts(gradient: Callable[..., tuple[Loss, Params]], parts: int) -> Callable:
    """Returns a function like `gradient` that goes through a batch part by part."""

    def whole(params: Params, batch: Batch, rng: PRNGKey, step: Array) -> tuple[Loss, Params]:
        split = jax.tree.map(partial(_split, parts), dict(batch))

        def add(total: tuple[Loss, Params], part: tuple[Batch, Array]) -> tuple:
            piece, number = part
            found = gradient(params, piece, jax.random.fold_in(rng, number), step)
            return jax.tree.map(lambda a, b: a + b / parts, total, found), None

        example = jax.tree.map(lambda x: x[0], split)
        shapes = jax.eval_shape(gradient, params, example, rng, step)
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, start, (split, jnp.arange(parts)))[0]

    return whole


def _split(parts: int, x: Array) -> Array:
    """Cuts an array into parts, each of which is spread as the whole was."""
    split = x.reshape(parts, -1, *x.shape[1:])
    return spread(split, " ".join("-b" + "-" * (split.ndim - 2)))


class _Learned(NamedTuple):
    """The parts of a state that a skipped step leaves as they were."""

    params: Params
    opt_state: optax.OptState
    totals: dict[str, Array]


def _begun(totals: dict[str, Array], begins: Array) -> dict[str, Array]:
    return {name: jnp.where(begins, 0.0, total) for name, total in totals.items()}
