"""Copying across a gap."""

import dataclasses

import numpy as np

from common.data.checks import require_integer
from common.data.pipeline import Batch
from common.data.sequences.draws import BLANK, MARK, as_batch, below


@dataclasses.dataclass(frozen=True)
class Copying:
    """Random symbols, a gap, a mark, and the symbols again.

    The copying task of Hochreiter and Schmidhuber 1997, "Long short-term memory", as in Arjovsky,
    Shah and Bengio 2016, "Unitary evolution recurrent neural networks", asked as next tokens.

    Scored are the predictions of the copy, the first of them at the mark. The gap is blank or, with
    `noise`, holds random symbols. Its length is `gap`, or drawn for each example from `shortest` to
    `gap`, so that distance alone does not tell; blanks fill what is left at the end.

    Without the context the best accuracy is 1 / vocabulary, the best loss ln(vocabulary). Picking
    one of the copied tokens at random is right with 1 / copied + (1 - 1 / copied) / vocabulary.

    Token 0 is the blank, 1 the mark, and symbols are the `vocabulary` after that.

    Attributes:
        vocabulary: number of different symbols.
        copied: number of symbols to copy.
        gap: tokens between the symbols and the mark, at the most; 0 or more.
        shortest: shortest gap; None for `gap`.
        noise: the gap holds random symbols instead of blanks.
    """

    vocabulary: int = 32
    copied: int = 8
    gap: int = 64
    shortest: int | None = None
    noise: bool = False

    def __post_init__(self) -> None:
        require_integer("vocabulary", self.vocabulary, 2)
        require_integer("copied", self.copied, 1)
        require_integer("gap", self.gap, 0)
        if self.shortest is not None:
            require_integer("shortest", self.shortest, 0, self.gap)

    @property
    def context(self) -> int:
        """Number of predictions, one less than the tokens."""
        return 2 * self.copied + self.gap

    @property
    def vocab_size(self) -> int:
        """Number of different tokens, blank and mark included."""
        return 2 + self.vocabulary

    @property
    def words(self) -> int:
        """Random words of an example: the gap's length, symbols and noise."""
        return 1 + self.copied + self.gap

    @property
    def chance(self) -> float:
        """Best accuracy without the context."""
        return 1 / self.vocabulary

    @property
    def guess_in_context(self) -> float:
        """Accuracy of one of the copied symbols picked at random."""
        return 1 / self.copied + (1 - 1 / self.copied) / self.vocabulary

    def build(self, words: np.ndarray) -> Batch:
        """Returns the examples made of uniform random words (b, words) uint64."""
        least = self.gap if self.shortest is None else self.shortest
        mark = self.copied + least + below(words[:, :1], self.gap - least + 1)
        symbols = 2 + below(words[:, 1:], self.vocabulary)
        places = np.arange(self.context + 1)
        tokens = np.full((len(words), self.context + 1), BLANK)
        filled = self.copied + self.gap if self.noise else self.copied
        tokens[:, :filled] = symbols[:, :filled]
        tokens[places >= mark] = BLANK
        np.put_along_axis(tokens, mark, MARK, 1)
        copy = mark + 1 + np.arange(self.copied)
        np.put_along_axis(tokens, copy, symbols[:, : self.copied], 1)
        scored = (places[:-1] >= mark) & (places[:-1] < mark + self.copied)
        return as_batch(tokens, scored)
