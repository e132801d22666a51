"""Questions about pictures that an encoder has looked at once and for all."""

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from common.array_types import Array, Float, UInt8
from common.data.pipeline import Batch, Example, evaluation_batches
from common.data.sort_of_clevr import SortOfClevr
from common.train.workdir import writing

See = Callable[[UInt8[Array, "b h w 3"]], Float[Array, "b s c"]]
"""Gives the features of pictures."""

AT_ONCE = 50
"""Pictures that are encoded together."""


class EncodedScenes:
    """Pictures as features, with their questions, as a random-access source held in memory.

    An example has 'features' (s, c) float32 and 'tokens' (q, 4) int32 as `SortOfClevr` gives them.
    All pictures are encoded when the first example is asked for, and kept in a file.

    Args:
        pictures: the pictures and their questions.
        find_encoder: gives what encodes pictures; called only where there is no file yet.
        key: says which encoder it is.
        folder: where the file is kept; nowhere if None.

    Attributes:
        pictures: as given.
    """

    def __init__(
        self,
        pictures: SortOfClevr,
        find_encoder: Callable[[], See],
        key: str,
        folder: Path | None = None,
    ):
        self.pictures, self._find_encoder = pictures, find_encoder
        self._key, self._folder = key, folder

    def __len__(self) -> int:
        """Returns the number of pictures."""
        return len(self.pictures)

    def __getitem__(self, index: int) -> Example:
        """Returns one picture's features with its questions."""
        return {name: array[index] for name, array in self._arrays.items()}

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """Returns the examples at `indices` (b,) as one batch."""
        return {name: array[np.asarray(indices)] for name, array in self._arrays.items()}

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the pictures, their questions or the encoder."""
        text = f"{self.pictures.fingerprint} {self._key}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        """Features and tokens of all pictures."""
        if self._folder is None:
            return self._encode()
        file = self._folder / f"{self.fingerprint}.npz"
        if not file.exists():
            _write(file, **self._encode())
        with np.load(file) as arrays:
            return {name: arrays[name] for name in ("features", "tokens")}

    def _encode(self) -> dict[str, np.ndarray]:
        see, features, tokens = self._find_encoder(), [], []
        for batch in evaluation_batches(self.pictures, AT_ONCE):
            features.append(np.asarray(see(jnp.asarray(batch["image"])))[batch["mask"]])
            tokens.append(batch["tokens"][batch["mask"]])
        return {"features": np.concatenate(features), "tokens": np.concatenate(tokens)}


def _write(file: Path, features: np.ndarray, tokens: np.ndarray) -> None:
    """Writes a file whole or not at all; of two processes that do so at once one is last."""
    scratch = file.with_name(f".{os.getpid()}-{file.name}")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(scratch, features=features, tokens=tokens)  # adds no suffix: the name has it
        scratch.replace(file)
