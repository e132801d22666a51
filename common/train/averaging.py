"""An exponential moving average of the parameters, kept beside the optimizer's state.

    average_t = a average_{t-1} + (1 - a) params_t,    a = min(decay, (1 + t) / (10 + t))

The smaller factor at the beginning forgets the initial parameters (as in TensorFlow's
`ExponentialMovingAverage` with `num_updates`). Source: Polyak and Juditsky 1992.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from common.array_types import Array, PyTree
from common.train.state import TrainState
from common.train.task import Params


class ParameterAverage(NamedTuple):
    """State of `average_parameters`.

    Attributes:
        count: number of steps so far.
        average: of the parameters.
    """

    count: Array
    average: PyTree


def average_parameters(decay: float) -> optax.GradientTransformation:
    """Returns a transformation that leaves the updates alone and averages the parameters.

    It must be the last of a chain, so that its updates are those that are applied.

    Args:
        decay: the share of the average that a step keeps.
    """

    def init(params: Params) -> ParameterAverage:
        return ParameterAverage(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(
        updates: PyTree, state: ParameterAverage, params: Params | None = None
    ) -> tuple[PyTree, ParameterAverage]:
        count = state.count.astype(jnp.float32) + 1.0
        keep = jnp.minimum(decay, (1.0 + count) / (10.0 + count))
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: keep * a + (1.0 - keep) * p, state.average, new)
        return updates, ParameterAverage(state.count + 1, average)

    return optax.GradientTransformation(init, update)


def scored_params(state: TrainState) -> Params:
    """Returns the parameters that a run is scored with: their average where one is kept."""
    leaves = jax.tree.leaves(
        state.opt_state, is_leaf=lambda node: isinstance(node, ParameterAverage)
    )
    averages = [leaf for leaf in leaves if isinstance(leaf, ParameterAverage)]
    return averages[0].average if averages else state.params
