"""What a task must offer to be trained: data, initial parameters, a loss and scores."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from common.array_types import Array, PRNGKey, PyTree
from common.data.pipeline import Source

Batch = Mapping[str, Any]
"""Arrays by name, each with a leading batch axis; from NumPy, or traced in a jitted function."""

Params = PyTree
Loss = tuple[Array, dict[str, Array]]


class Task(Protocol):
    """Describes something to learn, without saying how it is trained.

    A task may also have

        learning_rate_scales(params) -> a tree like params, of numbers: the factor of the learning
            rate of each parameter; what has 0 is frozen and takes no optimizer state;
        loss_at(params, batch, rng, step) -> as `loss`, which it replaces in training: an objective
            that changes with the number of finished steps;
        derive(source, scores) -> scores, to which it adds what follows from the means over all
            examples of a source, such as a perplexity;
        spreads: the mesh axes, of 'time' and 'frequency', that the model can be spread over.
    """

    @property
    def train_source(self) -> Source:
        """Examples to learn from."""
        ...

    @property
    def eval_sources(self) -> Mapping[str, Source]:
        """Held-out examples by name.

        'validation' is scored while training and picks the best checkpoint; every other source,
        such as 'test', is scored once, at the end.
        """
        ...

    @property
    def metric(self) -> str:
        """Name of the score that picks the best checkpoint; higher is better."""
        ...

    def init(self, rng: PRNGKey, /) -> Params:
        """Draws the initial parameters, in float32."""
        ...

    def loss(self, params: Params, batch: Batch, rng: PRNGKey, /) -> tuple[Array, dict[str, Array]]:
        """Computes the mean objective over the batch and further scalar metrics by name."""
        ...

    def score(self, params: Params, batch: Batch, /) -> dict[str, Array]:
        """Computes values of shape (b,) per example by name: 'loss', 'accuracy' (0 or 1), ...

        Where examples count differently in the means, 'weight' says how much, as the number of
        scored tokens of a window does.
        """
        ...


def objective(task: Task) -> Callable[[Params, Batch, PRNGKey, Array], Loss]:
    """Returns what training minimises: the task's `loss_at`, or its loss whatever the step is."""
    changing = getattr(task, "loss_at", None)
    if changing is not None:
        return changing

    def steady(params: Params, batch: Batch, rng: PRNGKey, step: Array) -> Loss:
        del step
        return task.loss(params, batch, rng)

    return steady
