"""A small entailment task that is generated: which of a few facts are denied.

    premise      yes the fox is in the barn . no the mill holds the owl .
    hypothesis   the barn holds the fox

Pairs 2k and 2k + 1 share the premise; the first asks for a fact that is stated, the second for one
that is denied. All animals and places of a hypothesis are in the premise, and how a fact is phrased
is drawn at random. So lengths and overlap of words say nothing about the label: yes and no must be
bound to their facts.
"""

import numpy as np

from common.data.pairs.examples import Pairs

ANIMALS = tuple(
    "fox owl crow dog cat hen goat horse mouse frog swan wolf bear deer lamb duck".split()
)
PLACES = tuple(
    "barn mill shed house tower garden cellar kitchen forest meadow harbour church "
    "market castle stable attic".split()
)
PHRASES = ("the {animal} is in the {place}", "the {place} holds the {animal}")
ANSWERS = ("yes", "no")
CLASSES = ("entailment", "not_entailment")
_WORDS = ("the", "is", "in", "holds", ".", *ANSWERS)


def make_facts(count: int, facts: int, seed: int) -> Pairs:
    """Generates pairs; example i depends on the seed and i alone.

    Args:
        count: number of pairs of sentences.
        facts: facts in a premise, 2 to 16.
        seed: any integer.

    Raises:
        ValueError: facts out of range.
    """
    if not 2 <= facts <= min(len(ANIMALS), len(PLACES)):
        raise ValueError(f"facts is {facts}; expected 2 to {min(len(ANIMALS), len(PLACES))}")
    first, second = [], []
    for number in range(count):
        rng = np.random.default_rng([seed % 2**63, number // 2])
        animals = rng.permutation(len(ANIMALS))[:facts]
        places = rng.permutation(len(PLACES))[:facts]
        denied = np.arange(facts) >= rng.integers(1, facts)  # at least one of each kind
        order = rng.permutation(facts)
        sentences = [
            f"{ANSWERS[int(denied[i])]} {_phrase(rng, int(animals[i]), int(places[i]))}"
            for i in order
        ]
        asked = -1 if number % 2 else 0  # the last one is denied, the first one is not
        phrases = np.random.default_rng([seed % 2**63, number // 2, 1 + number % 2])
        first.append(" . ".join(sentences) + " .")
        second.append(_phrase(phrases, int(animals[asked]), int(places[asked])))
    labels = (np.arange(count) % 2).astype(np.int32)
    return Pairs(tuple(first), tuple(second), labels, CLASSES)


def _phrase(rng: np.random.Generator, animal: int, place: int) -> str:
    phrase = PHRASES[int(rng.integers(len(PHRASES)))]
    return phrase.format(animal=ANIMALS[animal], place=PLACES[place])


class WordTokens:
    """The tokenizer of this task: a number for each of its words.

    A pair becomes [CLS] first [SEP] second [SEP], with type 1 from the second sentence on.
    """

    pad_id, cls_id, sep_id = 0, 1, 2
    words = (*_WORDS, *ANIMALS, *PLACES)
    size = 3 + len(words)

    def __init__(self):
        self._ids = {word: number for number, word in enumerate(self.words, 3)}

    def __call__(
        self, first: tuple[str, ...], second: tuple[str, ...], max_length: int
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Returns ids and token types of each pair.

        Raises:
            ValueError: a pair is longer than `max_length`, or holds an unknown word.
        """
        ids, types = [], []
        for a, b in zip(first, second, strict=True):
            left = [self.cls_id, *self._encode(a), self.sep_id]
            right = [*self._encode(b), self.sep_id]
            if len(left) + len(right) > max_length:
                raise ValueError(f"{len(left) + len(right)} tokens; expected {max_length} at most")
            ids.append(left + right)
            types.append([0] * len(left) + [1] * len(right))
        return ids, types

    def _encode(self, text: str) -> list[int]:
        unknown = [word for word in text.split() if word not in self._ids]
        if unknown:
            raise ValueError(f"no word {unknown[0]!r} in this task")
        return [self._ids[word] for word in text.split()]
