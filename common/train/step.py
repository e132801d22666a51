"""One optimizer step, compiled."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from common.train.state import TrainState
from common.train.task import Batch, Task

TrainStep = Callable[[TrainState, Batch], TrainState]


def make_train_step(
    task: Task, optimizer: optax.GradientTransformation, log_every: int
) -> TrainStep:
    """Returns the jitted function that takes a state and a batch to the next state.

    The old state is donated: it must not be used again. Metrics are summed on the device in
    `state.totals`, which start anew after every `log_every` steps, so that no step waits for a
    transfer and a resumed run continues the same sums.

    Args:
        task: Supplies the loss.
        optimizer: Turns gradients into updates.
        log_every: Number of steps whose metrics are summed together.
    """

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        rng = jax.random.fold_in(state.rng, state.step)
        (loss, metrics), gradients = jax.value_and_grad(task.loss, has_aux=True)(
            state.params, batch, rng
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        values = {"loss": loss, **metrics, "gradient_norm": optax.tree.norm(gradients)}
        begins = state.step % log_every == 0
        return state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            totals={
                name: jnp.where(begins, 0.0, total) + jnp.asarray(values[name], jnp.float32)
                for name, total in state.totals.items()
            },
        )

    return jax.jit(train_step, donate_argnums=0)
