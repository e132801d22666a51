"""Random tokens that come again."""

import dataclasses

import numpy as np

from common.data.checks import require_integer
from common.data.pipeline import Batch
from common.data.sequences.draws import as_batch, below, choose
from common.errors import UserError


@dataclasses.dataclass(frozen=True)
class RepeatedSequences:
    """Random tokens, then the same again: what induction heads continue (Olsson et al. 2022).

    An example has 2 * half_length tokens, the first `period` of them random and all others copies
    of the one `period` before. Scored are the predictions from the second token of the first copy
    on; its first token is determined only for who counts, and is left out.

    The period is `half_length`, or is drawn for each example from `shortest` to `half_length`, and
    the copies then go on to the end. With one period attention to a fixed distance is enough: one
    layer with learned positions solves it and matches nothing. Only with several periods does a
    solution show that tokens are matched.

    Without the context the best accuracy is 1 / vocabulary, the best loss ln(vocabulary).

    Attributes:
        vocabulary: number of different tokens.
        half_length: longest period, 2 or more.
        distinct: no token twice in a period, so that the token before tells the next one exactly.
            Otherwise tokens are drawn independently, and where one has several occurrences only
            two or more tokens, or the distance, tell which of them to continue.
        shortest: shortest period, 2 or more; None for `half_length`. A shorter one wants
            `distinct`: else chance repeats are taken for copies.
    """

    vocabulary: int = 64
    half_length: int = 32
    distinct: bool = False
    shortest: int | None = None

    def __post_init__(self) -> None:
        require_integer("vocabulary", self.vocabulary, 2)
        require_integer("half_length", self.half_length, 2)
        if self.distinct and self.vocabulary < self.half_length:
            raise UserError(
                f"data.vocabulary is {self.vocabulary}; {self.half_length} distinct tokens want "
                f"{self.half_length} or more"
            )
        if self.shortest is not None:
            require_integer("shortest", self.shortest, 2, self.half_length)
            if self.shortest < self.half_length and not self.distinct:
                raise UserError(
                    f"data.shortest is {self.shortest} with half_length {self.half_length}; "
                    "periods that differ want data.distinct"
                )

    @property
    def context(self) -> int:
        """Number of predictions, one less than the tokens."""
        return 2 * self.half_length - 1

    @property
    def vocab_size(self) -> int:
        """Number of different tokens; none is special."""
        return self.vocabulary

    @property
    def words(self) -> int:
        """Random words of an example: the period, and its tokens."""
        return 1 + self.half_length

    @property
    def chance(self) -> float:
        """Best accuracy without the context."""
        return 1 / self.vocabulary

    def build(self, words: np.ndarray) -> Batch:
        """Returns the examples made of uniform random words (b, words) uint64."""
        least = self.half_length if self.shortest is None else self.shortest
        period = least + below(words[:, :1], self.half_length - least + 1)
        if self.distinct:
            symbols = choose(words[:, 1:], self.vocabulary)
        else:
            symbols = below(words[:, 1:], self.vocabulary)
        places = np.arange(2 * self.half_length)
        tokens = np.take_along_axis(symbols, places % period, 1)
        return as_batch(tokens, places[1:] > period)
