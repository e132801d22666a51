"""What the members of an ensemble and the pathways of a mixture add to each other."""

from typing import NamedTuple

import jax
import numpy as np

from common.array_types import Float, Int, PyTree
from common.data.pipeline import Batch
from common.data.sort_of_clevr import TYPES
from common.injection import ensemble_prediction
from experiments.analyses.injection import intermediates, short_name
from experiments.tasks.injection import InjectionTask

BINS = 15


class Sureness(NamedTuple):
    """How far the probabilities of answers can be believed.

    Attributes:
        right: share of right answers.
        loss: mean negative log probability of the answers, nats.
        calibration_error: how far confidence and share of right answers lie apart, in the mean over
            answers, within bins of confidence (Guo et al. 2017, equation 3).
    """

    right: float
    loss: float
    calibration_error: float


class EnsembleSureness(NamedTuple):
    """An ensemble beside its members.

    Attributes:
        members: each member alone.
        ensemble: by the members' mean probability.
        disagreement: share of pairs of members with other answers: where the ensemble is right, and
            where it is wrong; NaN where it never is.
        mutual_information: what the members' difference adds to the entropy, nats, likewise.
    """

    members: tuple[Sureness, ...]
    ensemble: Sureness
    disagreement: tuple[float, float]
    mutual_information: tuple[float, float]


def sureness(p: Float[np.ndarray, "*b k"], answers: Int[np.ndarray, "*b"]) -> Sureness:
    """Measures probabilities against the answers."""
    p, answers = p.reshape(-1, p.shape[-1]).astype(np.float64), answers.reshape(-1)
    confidence, right = p.max(-1), p.argmax(-1) == answers
    told = p[np.arange(len(p)), answers]
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [abs(np.sum(confidence[bins == n]) - np.sum(right[bins == n])) for n in range(BINS)]
    loss = -np.log(np.maximum(told, 1e-30)).mean()
    return Sureness(float(right.mean()), float(loss), float(sum(gaps) / len(p)))


def ensemble_sureness(task: InjectionTask, params: PyTree, batch: Batch) -> EnsembleSureness | None:
    """Measures an ensemble's answers to a batch; None where there is one member."""
    if task.model.members == 1:
        return None
    logits = jax.jit(task.answer)(params, dict(batch))
    answers = np.asarray(batch["tokens"][..., -1])
    members = tuple(sureness(np.asarray(jax.nn.softmax(one)), answers) for one in logits)
    said = ensemble_prediction(logits)
    mean = np.asarray(said.mean)
    right = mean.argmax(-1) == answers

    def apart(values: Float[np.ndarray, "b q"]) -> tuple[float, float]:
        found = [values[chosen] for chosen in (right, ~right)]
        first, second = (float(x.mean()) if x.size else float("nan") for x in found)
        return first, second

    return EnsembleSureness(
        members,
        sureness(mean, answers),
        apart(np.asarray(said.disagreement)),
        apart(np.asarray(said.mutual_information)),
    )


def pathway_parts(
    task: InjectionTask, params: PyTree, batch: Batch
) -> dict[str, Float[np.ndarray, "types n"]]:
    """Returns each pathway's part of what a mixture gives, by layer.

    The part is that of its share times what it makes of the answer's token, in root mean squares
    over pictures and channels. Pathways that do the same have equal parts for every type.
    """
    named = intermediates(task, params, batch)
    questions = batch["tokens"].shape[1]
    found = {}
    for path, shares in named.items():
        if not path.endswith("path_shares"):
            continue
        layer, sizes = path.removesuffix("/path_shares"), []
        for number in range(shares.shape[-1]):
            x, gamma, beta = (
                np.asarray(named[f"{layer}/films_{number}/{name}"], np.float64)
                for name in ("input", "gamma", "beta")
            )
            x = x.reshape(len(x), questions, -1, x.shape[-1])[:, :, -1]  # the answer's token
            share = np.asarray(shares, np.float64)[:, number, None, None]
            made = share * (gamma[:, None] * x + beta[:, None])
            by_type = made.reshape(len(x), len(TYPES), -1)
            sizes.append(np.sqrt((by_type**2).mean((0, 2))))
        parts = np.stack(sizes, -1)
        found[short_name(layer)] = parts / parts.sum(-1, keepdims=True)
    return found
