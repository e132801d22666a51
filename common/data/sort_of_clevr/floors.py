"""What can be answered without looking at both picture and question: the floors of a score."""

from typing import NamedTuple

import numpy as np

from common.data.sort_of_clevr.questions import TYPES, WORDS, all_answers
from common.data.sort_of_clevr.scenes import COUNT, SHAPES
from common.data.sort_of_clevr.source import SortOfClevr


class Floors(NamedTuple):
    """Accuracies by type of question of those who do not look at all there is.

    Every floor is of the answers of a source to all its questions, the guess being the best one
    for these very answers.

    Attributes:
        majority: the commonest answer to each type of question.
        question: the commonest answer to each question.
        image: one answer to all questions about a picture, the commonest one among them.
        shapes: 'nearest' and 'furthest' by the commoner shape of the other objects, wherever they
            stand (even where they are as many: a guess); the other types as `question`, but
            'shape' and 'number', which shapes alone determine.
    """

    majority: dict[str, float]
    question: dict[str, float]
    image: dict[str, float]
    shapes: dict[str, float]


def measure_floors(source: SortOfClevr, count: int = 10_000) -> Floors:
    """Measures the floors on all questions about the first pictures of a source."""
    scenes = source.scenes(np.arange(min(count, len(source))))
    answers = all_answers(scenes, source.settings.image_size)
    counts = (answers[..., None] == np.arange(len(WORDS))).astype(np.int32)  # b, type, colour, word
    total = counts.sum(0)
    asked = len(answers) * COUNT
    majority = total.sum(1).max(-1) / asked
    question = total.max(-1).sum(1) / asked
    best = counts.sum((1, 2)).argmax(-1)
    image = np.take_along_axis(counts, best[:, None, None, None], -1).sum((0, 2, 3)) / asked
    same = (scenes.shapes[:, :, None] == np.arange(len(SHAPES))).sum(1)  # b, shape
    others = same[:, None] - (scenes.shapes[:, :, None] == np.arange(len(SHAPES)))
    guess = WORDS.index(SHAPES[0]) + others.argmax(-1)
    shapes = dict(zip(TYPES, question, strict=True)) | {"shape": 1.0, "number": 1.0}
    for name in ("nearest", "furthest"):
        shapes[name] = (answers[:, TYPES.index(name)] == guess).mean()
    first, second, third = (
        {name: float(x) for name, x in zip(TYPES, values, strict=True)}
        for values in (majority, question, image)
    )
    return Floors(first, second, third, {name: float(x) for name, x in shapes.items()})
