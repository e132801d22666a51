"""What a model of pairs answers, and whether it has learnt to tell its classes apart at all."""

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from common.array_types import PyTree
from common.data.pairs import TokenPairs
from common.data.pipeline import evaluation_batches
from common.errors import UserError
from common.train.workdir import read_json, replace_file

FILE = "predictions.json"


class Answers(NamedTuple):
    """Answers to pairs with known labels.

    Attributes:
        probability: (n,) of class 0 in each pair.
        labels: (n,) numbers of classes.
    """

    probability: np.ndarray
    labels: np.ndarray

    @property
    def answers(self) -> np.ndarray:
        """Returns the class (n,) that each pair is given."""
        return (self.probability < 0.5).astype(int)

    @property
    def correct(self) -> np.ndarray:
        """Returns whether each answer is right (n,)."""
        return self.answers == self.labels

    @property
    def one_class(self) -> bool:
        """Tells whether all answers are the same."""
        return len(np.unique(self.answers)) == 1


def held_out(task: Any) -> tuple[str, TokenPairs]:
    """Returns the pairs that a run is judged by, with their name: 'test' where there are such."""
    name = "test" if "test" in task.eval_sources else "validation"
    return name, task.eval_sources[name]


def answer(task: Any, params: PyTree, source: TokenPairs, batch_size: int) -> Answers:
    """Applies a model to every pair of a source."""

    @jax.jit
    def probability(params: PyTree, batch: dict) -> jax.Array:
        return jax.nn.softmax(task.decide(params, batch).logits)[:, 0]

    parts = []
    with contextlib.closing(evaluation_batches(source, batch_size)) as batches:
        for batch in batches:
            mask = batch.pop("mask")
            parts.append(np.asarray(probability(params, batch))[mask])
    return Answers(np.concatenate(parts), np.asarray(source.pairs.labels))


def save_answers(answers: Answers, folder: Path) -> None:
    """Writes the answers into the folder of a run."""
    content = {
        "probability": [round(float(p), 6) for p in answers.probability],
        "labels": answers.labels.tolist(),
    }
    replace_file(folder / FILE, json.dumps(content) + "\n")


def load_answers(folder: Path) -> Answers:
    """Reads the answers of a run.

    Raises:
        UserError: it has none.
    """
    if not (folder / FILE).is_file():
        raise UserError(f"{folder} has no {FILE}; run --mode=report on it")
    content = read_json(folder / FILE)
    return Answers(np.array(content["probability"]), np.array(content["labels"]))


def require_two_classes(answers: Answers, classes: tuple[str, ...]) -> None:
    """Refuses to call a model trained that gives the same answer to everything.

    Raises:
        UserError: all answers are one class.
    """
    if answers.one_class:
        name, share = classes[int(answers.answers[0])], answers.correct.mean()
        raise UserError(
            f"not trained: all {len(answers.labels)} answers are {name!r}; the accuracy of "
            f"{100 * share:.1f} % is the share of that class"
        )
