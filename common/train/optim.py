"""The optimizer and its learning rate over time."""

import math
from collections.abc import Callable

import jax
import optax
from ml_collections import ConfigDict

from common.array_types import PyTree
from common.errors import UserError
from common.train.averaging import average_parameters

Scales = Callable[[PyTree], PyTree]
"""Gives the factor of the learning rate of each parameter."""


def make_schedule(config: ConfigDict, steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the number of finished steps.

    It rises linearly from 0 to `learning_rate` over `warmup_steps`, then falls along half a cosine
    to `final_fraction * learning_rate` at `steps`.

    Args:
        config: Has learning_rate, final_fraction and warmup_steps.
        steps: Length of the run, warm-up included.

    Raises:
        UserError: A value is out of its range.
    """
    _require(config, "learning_rate", 0 < config.learning_rate < math.inf, "a positive number")
    _require(config, "final_fraction", 0 <= config.final_fraction <= 1, "between 0 and 1")
    _require(
        config, "warmup_steps", 0 <= config.warmup_steps < steps, f"from 0 to {steps - 1} steps"
    )
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if config.warmup_steps else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=steps,
        end_value=config.final_fraction * config.learning_rate,
    )


def make_optimizer(
    config: ConfigDict, steps: int, scales: Scales | None = None
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns AdamW with clipped gradients, and its learning rate schedule.

    Weight decay acts on all parameters that learn.

    Args:
        config: Has learning_rate, final_fraction, warmup_steps, weight_decay and clip_norm (largest
            global norm of the gradient); where it has `average_decay` above 0, the optimizer also
            keeps an average of the parameters, see `common.train.averaging`.
        steps: Length of the run.
        scales: Factors of the learning rate; 0 freezes a parameter, whose gradient then counts
            neither for the clipping nor in the optimizer's state.

    Raises:
        UserError: A value is out of its range.
    """
    _require(config, "weight_decay", 0 <= config.weight_decay < math.inf, "0 or more")
    _require(config, "clip_norm", config.clip_norm > 0, "positive")
    schedule = make_schedule(config, steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(schedule, weight_decay=config.weight_decay),
    )
    if scales is not None:
        optimizer = _scaled(optimizer, scales)
    decay = config.get("average_decay", 0.0)
    if decay:
        _require(config, "average_decay", 0 < decay < 1, "0 or more, below 1")
        optimizer = optax.chain(optimizer, average_parameters(decay))
    return optimizer, schedule


def _scaled(
    optimizer: optax.GradientTransformation, scales: Scales
) -> optax.GradientTransformation:
    """Returns the optimizer for what learns, with its updates scaled; the rest stays as it is."""

    def groups(params: PyTree) -> PyTree:
        return jax.tree.map(lambda scale: "learns" if scale else "frozen", scales(params))

    def scale_updates(updates: PyTree, params: PyTree | None = None) -> PyTree:
        return jax.tree.map(lambda update, scale: scale * update, updates, scales(params))

    return optax.chain(
        optax.multi_transform({"learns": optimizer, "frozen": optax.set_to_zero()}, groups),
        optax.stateless(scale_updates),
    )


def _require(config: ConfigDict, key: str, holds: bool, expected: str) -> None:
    if not holds:
        raise UserError(f"config.optim.{key} is {config[key]}, expected {expected}")
