"""Pictures with their questions, made when they are asked for."""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from common.data.checks import require_integer
from common.data.pipeline import Batch, Example
from common.data.sequences.draws import choose, random_words
from common.data.sort_of_clevr.questions import TYPES, all_answers, ask
from common.data.sort_of_clevr.scenes import COUNT, Scenes, SceneSettings


class SortOfClevr:
    """Pictures, each with some questions of every type, as a random-access source.

    Example i is a function of (settings, per_type, seed, i) alone; its picture is one of (settings,
    seed, i). It has 'image' (h, w, 3) uint8 and 'tokens' (q, 4) int32: three words of a question
    and its answer. The first `per_type` questions are of the first type, and so on; those of one
    type are about different colours. Give each split a seed of its own.

    Args:
        settings: what the scenes are.
        count: number of pictures.
        per_type: questions of each type about a picture, 1 to 6.
        seed: any integer.

    Raises:
        UserError: a number that is no integer within its bounds.
    """

    def __init__(self, settings: SceneSettings, count: int, per_type: int = 1, seed: int = 0):
        require_integer("count", count, 1)
        require_integer("per_type", per_type, 1, COUNT)
        self.settings, self.per_type = settings, int(per_type)
        self._count, self._seed = int(count), int(seed) % 2**64

    def __len__(self) -> int:
        """Returns the number of pictures."""
        return self._count

    def __getitem__(self, index: int) -> Example:
        """Returns one picture with its questions."""
        batch = self.__getitems__(np.array([range(self._count)[index]]))
        return {name: array[0] for name, array in batch.items()}

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """Returns the examples at `indices` (b,), from 0 on, as one batch."""
        scenes, words = self._draw(indices)
        decks = words.reshape(-1, COUNT)[:, : self.per_type]
        colours = choose(decks, COUNT).reshape(len(words), len(TYPES), self.per_type)
        types = np.broadcast_to(np.arange(len(TYPES))[:, None], colours.shape)
        answers = all_answers(scenes, self.settings.image_size)
        answers = np.take_along_axis(answers, colours, 2)
        tokens = np.concatenate([ask(types, colours), answers[..., None]], -1)
        return {
            "image": self.settings.draw(scenes),
            "centres": scenes.centres.astype(np.int32),
            "shapes": scenes.shapes.astype(np.int32),
            "tokens": tokens.reshape(len(words), -1, tokens.shape[-1]).astype(np.int32),
        }

    def scenes(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """Returns what the pictures at `indices` (b,) show."""
        return self._draw(indices)[0]

    def _draw(self, indices: Sequence[int] | np.ndarray) -> tuple[Scenes, np.ndarray]:
        """Returns scenes, and the words (b, types * 6) that choose the colours of the questions."""
        own = self.settings.words
        words = random_words(self._seed, np.asarray(indices), own + len(TYPES) * COUNT)
        return self.settings.build(words[:, :own]), words[:, own:]

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the settings, the numbers or the seed."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        text = f"1 {self.settings} {self._count} {self.per_type} {self._seed}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]
