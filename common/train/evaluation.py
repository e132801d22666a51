"""Scoring a model on held-out examples."""

import contextlib
from collections.abc import Callable

import jax

from common.data.pipeline import Source, evaluation_batches
from common.mesh import one_device
from common.train.metrics import BatchSums, make_batch_sums, summarise
from common.train.sharding import Sharding
from common.train.task import Batch, Params, Task

Scores = dict[str, float | int]
ScoreSums = Callable[[Params, Batch], BatchSums]


class EvaluationStopped(Exception):
    """Reports that scoring was broken off because the run was asked to stop."""


def evaluate(
    task: Task,
    params: Params,
    source: Source,
    batch_size: int,
    *,
    sums: ScoreSums | None = None,
    sharding: Sharding | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Scores:
    """Scores every example of `source` once.

    Args:
        task: Supplies the scores per example.
        params: Parameters to score.
        source: Examples to score.
        batch_size: Number of examples scored together.
        sums: `make_batch_sums(task.score)`, to compile it once for many calls.
        sharding: Where the batches lie, if on several devices; `params` lie there too.
        stop: Asked before every batch whether to break off.

    Returns:
        The mean of every score and 'count', and what the task derives from them. A score that is
        0 or 1 throughout, such as 'accuracy', has its 95 % Wilson interval in '<name>_low' and
        '<name>_high'.

    Raises:
        EvaluationStopped: `stop` said so.
        UserError: The source is empty.
    """
    sums = sums or make_batch_sums(task.score)
    sharding = sharding or Sharding(one_device())
    size = sharding.rounded_up(batch_size)
    batches = evaluation_batches(source, size, sharding.share)
    parts: list[BatchSums] = []
    with contextlib.closing(batches), sharding.in_force():
        for batch in batches:
            if stop():
                raise EvaluationStopped
            parts.append(sums(params, sharding.place(batch)))
    scores = summarise(jax.device_get(parts), len(source))
    derive = getattr(task, "derive", None)
    return scores if derive is None else derive(source, scores)
