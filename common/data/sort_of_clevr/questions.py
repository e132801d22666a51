"""Questions about scenes and their answers, as words of a small vocabulary."""

import numpy as np

from common.array_types import Int
from common.data.sort_of_clevr.scenes import COLOURS, COUNT, SHAPES, Scenes, squared_distances

NON_RELATIONAL = ("shape", "side", "level")
RELATIONAL = ("nearest", "furthest", "number")
TYPES = NON_RELATIONAL + RELATIONAL
"""Types of questions, in the order of their first words."""

_LINKS = {"shape": "of", "side": "of", "level": "of", "nearest": "to", "furthest": "from"}
_LINKS["number"] = "like"

SIDES, LEVELS = ("left", "right"), ("top", "bottom")
NUMBERS = tuple(str(number) for number in range(1, COUNT + 1))
WORDS = ("<image>", "<blank>", *TYPES, *dict.fromkeys(_LINKS.values()), *COLOURS)
WORDS += (*SHAPES, *SIDES, *LEVELS, *NUMBERS)
"""The vocabulary: token i is word i. The first two stand for an image token and for no word."""

IMAGE, BLANK = 0, 1
QUESTION_LENGTH = 3
FIRST_TYPE, FIRST_COLOUR = WORDS.index(TYPES[0]), WORDS.index(next(iter(COLOURS)))
_LINK_TOKENS = np.array([WORDS.index(_LINKS[name]) for name in TYPES])


def ask(types: Int[np.ndarray, "*b"], colours: Int[np.ndarray, "*b"]) -> Int[np.ndarray, "*b 3"]:
    """Returns the tokens of questions of some types (index into TYPES) about some colours."""
    return np.stack([FIRST_TYPE + types, _LINK_TOKENS[types], FIRST_COLOUR + colours], -1)


def all_answers(scenes: Scenes, image_size: int) -> Int[np.ndarray, "b types 6"]:
    """Returns the token that answers each type of question about each colour."""
    centres, shapes = scenes
    squared = squared_distances(centres)
    itself = np.eye(COUNT, dtype=bool)
    nearest = np.where(itself, np.iinfo(np.int64).max, squared).argmin(-1)
    furthest = np.where(itself, -1, squared).argmax(-1)
    beyond = 2 * centres > image_size
    alike = (shapes[:, :, None] == shapes[:, None]).sum(-1)
    found = {
        "shape": (SHAPES, shapes),
        "side": (SIDES, beyond[..., 1]),
        "level": (LEVELS, beyond[..., 0]),
        "nearest": (SHAPES, np.take_along_axis(shapes, nearest, 1)),
        "furthest": (SHAPES, np.take_along_axis(shapes, furthest, 1)),
        "number": (NUMBERS, alike - 1),
    }
    return np.stack([WORDS.index(found[name][0][0]) + found[name][1] for name in TYPES], 1)


def decode(tokens: Int[np.ndarray, "t"]) -> str:
    """Returns the words of tokens, with spaces between them."""
    return " ".join(WORDS[int(token)] for token in tokens)
