"""Recalling the values of keys."""

import dataclasses

import numpy as np

from common.data.checks import require_integer
from common.data.pipeline import Batch
from common.data.sequences.draws import BLANK, as_batch, below, choose, uniform
from common.errors import UserError


@dataclasses.dataclass(frozen=True)
class AssociativeRecall:
    """Multi-query associative recall (Arora et al. 2023, "Zoology", section 3 and appendix).

    Pairs of a key and its value come first, no key and no value twice. Then come slots of two
    tokens: in `queries` of them a key of the pairs and its value again, in the others blanks or
    noise. Scored are the predictions of those values, at the queries. Query slots are drawn without
    replacement with weights r^(power - 1), r = 1, 2, ... from the pairs on, so that distances
    follow a power law.

    Two things differ from Zoology. A query is followed by its value, as in text, where Zoology has
    filler and keeps the answer apart. And each query asks for any of the keys, where Zoology asks
    for each once: with answers in sight, values not yet given would betray the rest.

    The accuracy of whoever does not look at the context is 1 / values. Of whoever picks one of the
    pairs' values but does not look at the key it is 1 / pairs, whatever the rule, as every query is
    drawn independently of all before it. Losses are ln(values) and ln(pairs).

    Token 0 is the blank, keys are 1 to `keys`, values the `values` after that.

    Attributes:
        keys: number of different keys.
        values: number of different values.
        pairs: pairs in an example.
        queries: queries in an example; None for as many as pairs.
        context: number of predictions; the example has one token more.
        power: exponent of the power law; small for queries near the pairs, 1 for uniform.
        noise: filler is random values instead of blanks.
    """

    keys: int = 128
    values: int = 128
    pairs: int = 8
    queries: int | None = None
    context: int = 63
    power: float = 0.01
    noise: bool = False

    def __post_init__(self) -> None:
        require_integer("pairs", self.pairs, 1)
        for name in ("keys", "values"):
            require_integer(name, getattr(self, name), self.pairs)
        require_integer("context", self.context, 1)
        if self.queries is None:
            object.__setattr__(self, "queries", self.pairs)
        require_integer("queries", self.queries, 1)
        if self.slots < self.asked:
            raise UserError(
                f"data.context is {self.context}; {self.pairs} pairs and {self.asked} queries "
                f"want {2 * (self.pairs + self.asked) - 1} or more"
            )
        number = isinstance(self.power, (int, float)) and not isinstance(self.power, bool)
        if not number or not 0 < self.power < np.inf:
            raise UserError(f"data.power is {self.power!r}; expected a number greater than 0")

    @property
    def asked(self) -> int:
        """Queries in an example."""
        return self.pairs if self.queries is None else self.queries

    @property
    def slots(self) -> int:
        """Places of two tokens after the pairs."""
        return (self.context + 1) // 2 - self.pairs

    @property
    def vocab_size(self) -> int:
        """Number of different tokens, the blank included."""
        return 1 + self.keys + self.values

    @property
    def words(self) -> int:
        """Random words of an example: for keys, values, slots, queries and filler."""
        return 2 * self.pairs + self.slots + self.asked + self.context + 1

    @property
    def chance(self) -> float:
        """Best accuracy without the context."""
        return 1 / self.values

    @property
    def guess_in_context(self) -> float:
        """Best accuracy with the values of the context but without matching keys."""
        return 1 / self.pairs

    def build(self, words: np.ndarray) -> Batch:
        """Returns the examples made of uniform random words (b, words) uint64."""
        sizes = [self.pairs, self.pairs, self.slots, self.asked]
        parts = np.split(words, np.cumsum(sizes), axis=1)
        keys = 1 + choose(parts[0], self.keys)
        values = 1 + self.keys + choose(parts[1], self.values)
        tokens = np.full((len(words), self.context + 1), BLANK)
        if self.noise:
            tokens[:] = 1 + self.keys + below(parts[4], self.values)
        tokens[:, 0 : 2 * self.pairs : 2] = keys
        tokens[:, 1 : 2 * self.pairs : 2] = values
        places = 2 * (self.pairs + self._query_slots(parts[2]))
        asked = below(parts[3], self.pairs)
        np.put_along_axis(tokens, places, np.take_along_axis(keys, asked, 1), 1)
        np.put_along_axis(tokens, places + 1, np.take_along_axis(values, asked, 1), 1)
        scored = np.zeros((len(words), self.context), bool)
        np.put_along_axis(scored, places, True, 1)
        return as_batch(tokens, scored)

    def _query_slots(self, words: np.ndarray) -> np.ndarray:
        """Draws slots (b, queries) without replacement, by Efraimidis and Spirakis 2006.

        The smallest of exponential variables with rates w are a weighted sample, in order of draws.
        """
        weights = np.arange(1, self.slots + 1) ** (self.power - 1.0)
        times = -np.log1p(-uniform(words)) / weights
        return np.argsort(times, axis=1, kind="stable")[:, : self.asked]
