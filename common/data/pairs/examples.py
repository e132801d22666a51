"""What a set of labelled pairs is."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Labelled pairs of sentences.

    Attributes:
        first: sentence 1 of each pair, the premise.
        second: sentence 2, the hypothesis.
        labels: (n,) int32 numbers of classes.
        classes: their names.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Pairs":
        """Returns the pairs at `indices` (m,)."""
        return Pairs(
            tuple(self.first[i] for i in indices),
            tuple(self.second[i] for i in indices),
            self.labels[indices],
            self.classes,
        )
