"""The whole state of a training run, and how it begins."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from flax import struct

from common.array_types import Array, PRNGKey, PyTree
from common.train.skipping import Skips
from common.train.task import Batch, Params, Task, objective

RESERVED_METRICS = frozenset(
    {"loss", "gradient_norm", "learning_rate", "skipped_steps", "step", "split", "timing"}
)


class TrainState(struct.PyTreeNode):
    """Everything that the next step depends on; a checkpoint holds exactly this.

    Attributes:
        step: Number of finished steps. Also the data position: the next batch is number `step`.
        params: Parameters of the model, in float32.
        opt_state: State of the optax optimizer.
        rng: Key of the run; step s uses `fold_in(rng, s)`.
        totals: Sums of the metrics over the steps since the last log point, in float32.
        skips: The steps that were skipped because they were not finite.
    """

    step: Array
    params: Params
    opt_state: optax.OptState
    rng: PRNGKey
    totals: dict[str, Array]
    skips: Skips


def make_init(
    task: Task, optimizer: optax.GradientTransformation, metrics: Sequence[str]
) -> Callable[[PRNGKey], TrainState]:
    """Returns the jitted function that draws the initial state of `task` from a key.

    Args:
        task: Supplies the parameters.
        optimizer: Supplies the optimizer's state.
        metrics: Names of the metrics to sum, from `metric_names`.
    """

    def init(rng: PRNGKey) -> TrainState:
        params_rng, step_rng = jax.random.split(rng)
        params = jax.tree.map(_strong_type, task.init(params_rng))
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=jax.tree.map(_strong_type, optimizer.init(params)),
            rng=step_rng,
            totals={name: jnp.zeros((), jnp.float32) for name in metrics},
            skips=Skips.none(),
        )

    return jax.jit(init)


def metric_names(task: Task, batch: Batch) -> list[str]:
    """Returns the names of all metrics that a training step of `task` yields on such a batch.

    Raises:
        ValueError: A metric is not a scalar, or takes a name that the loop itself uses.
    """
    rng = jax.random.key(0)
    params = jax.eval_shape(task.init, rng)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    loss, metrics = jax.eval_shape(objective(task), params, batch, rng, step)
    for name, value in {"loss": loss, **metrics}.items():
        if value.shape != ():
            raise ValueError(f"metric {name!r} of the task must be a scalar, not {value.shape}")
    if taken := RESERVED_METRICS & metrics.keys():
        raise ValueError(f"metric names {sorted(taken)} are used by the training loop itself")
    return ["loss", *metrics, "gradient_norm"]


def parameter_count(params: PyTree) -> int:
    """Counts the numbers in all parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _strong_type(leaf: Array) -> Array:
    """Fixes the dtype, so that a fresh and a restored state promote alike."""
    return jax.lax.convert_element_type(leaf, leaf.dtype)
