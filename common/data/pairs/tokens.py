"""Tokenised pairs as a source of training examples, padded to one of a few lengths."""

import copy
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from common.data.grouping import grouped_order
from common.data.pairs.examples import Pairs
from common.errors import DataError, UserError


class PairTokenizer(Protocol):
    """Turns pairs of sentences into ids and token types."""

    @property
    def pad_id(self) -> int:
        """The id of padding."""
        ...

    def __call__(
        self, first: tuple[str, ...], second: tuple[str, ...], max_length: int, /
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Returns ids and token types of each pair, `max_length` of them at most."""
        ...


class FolderTokens:
    """The tokenizer of a Hugging Face folder.

    A pair that is too long loses tokens of its longer sentence first. A tokenizer without token
    types, such as RoBERTa's, gives type 0 throughout.

    Args:
        folder: has tokenizer.json or what its tokenizer is made of.

    Raises:
        UserError: no tokenizer there.
    """

    def __init__(self, folder: Path):
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        from transformers import AutoTokenizer  # slow to import

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{folder}: no tokenizer: {reason}") from error
        self.pad_id: int = self._tokenizer.pad_token_id or 0

    @property
    def mask_id(self) -> int | None:
        """The id of the token that hides a word; None without one."""
        return self._tokenizer.mask_token_id

    @property
    def frame_ids(self) -> tuple[int, ...]:
        """The ids of what frames a text: CLS, SEP and padding, as far as there are such."""
        chosen = self._tokenizer
        ids = {chosen.cls_token_id, chosen.sep_token_id, chosen.pad_token_id}
        return tuple(sorted(ids - {None}))

    def __call__(
        self, first: tuple[str, ...], second: tuple[str, ...], max_length: int
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Returns ids and token types of each pair."""
        found = self._tokenizer(
            list(first), list(second), truncation="longest_first", max_length=max_length
        )
        types = found.get("token_type_ids") or [[0] * len(ids) for ids in found["input_ids"]]
        return found["input_ids"], types

    def single(self, sentences: tuple[str, ...], max_length: int) -> list[list[int]]:
        """Returns the ids of sentences by themselves."""
        found = self._tokenizer(list(sentences), truncation=True, max_length=max_length)
        return found["input_ids"]


class TokenPairs:
    """Pairs as arrays of token ids; a batch is as long as its longest pair needs.

    An example has 'input_ids', 'attention_mask' and 'token_type_ids' (s,) int32, 'label', and the
    numbers that `with_numbers` gave it.

    Args:
        pairs: sentences and labels.
        tokenizer: makes tokens of them.
        lengths: the lengths that batches may have, rising; a pair has no more tokens than the last.
        batch_size: of training, whose batches are grouped by length; None leaves them shuffled.

    Raises:
        DataError: no pairs.
    """

    def __init__(
        self,
        pairs: Pairs,
        tokenizer: PairTokenizer,
        lengths: Sequence[int],
        batch_size: int | None = None,
    ):
        if not len(pairs):
            raise DataError("no pairs of sentences")
        self.pairs, self._lengths, self._batch_size = pairs, tuple(lengths), batch_size
        self._numbers: dict[str, np.ndarray] = {}
        ids, types = tokenizer(pairs.first, pairs.second, self._lengths[-1])
        self.token_counts = np.array([len(row) for row in ids])
        shape = (len(ids), self._lengths[-1])
        self._ids = np.full(shape, tokenizer.pad_id, np.int32)
        self._types = np.zeros(shape, np.int32)
        for number, (row, kinds) in enumerate(zip(ids, types, strict=True)):
            self._ids[number, : len(row)] = row
            self._types[number, : len(row)] = kinds

    def __len__(self) -> int:
        """Returns the number of pairs."""
        return len(self.token_counts)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Returns one example of the greatest length."""
        batch = self._batch(np.array([range(len(self))[index]]), self._lengths[-1])
        return {name: array[0] for name, array in batch.items()}

    def __getitems__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the examples at `indices` (b,), as long as the longest of them needs."""
        longest = self.token_counts[indices].max()
        return self._batch(indices, next(n for n in self._lengths if n >= longest))

    def first(self, count: int) -> "TokenPairs":
        """Returns the first `count` pairs as a source of their own."""
        part = copy.copy(self)
        part.pairs, part.token_counts = self.pairs.take(np.arange(count)), self.token_counts[:count]
        part._ids, part._types = self._ids[:count], self._types[:count]
        part._numbers = {name: values[:count] for name, values in self._numbers.items()}
        part.__dict__.pop("_fingerprint", None)
        return part

    def with_numbers(self, name: str, values: np.ndarray) -> "TokenPairs":
        """Returns the same pairs, each with a number of its own more.

        Args:
            name: its name in an example.
            values: (n,), taken as float32.

        Raises:
            ValueError: not one number for each pair.
        """
        if values.shape != (len(self),):
            raise ValueError(f"{name} is {values.shape}; expected {(len(self),)}")
        more = copy.copy(self)
        more._numbers = self._numbers | {name: np.asarray(values, np.float32)}
        more.__dict__.pop("_fingerprint", None)
        return more

    def order(self, seed: int) -> Callable[[np.ndarray], np.ndarray]:
        """Returns the order of training, see `common.data.pipeline.Source`."""
        size = self._batch_size or 1
        return grouped_order(self.token_counts, size, seed, 1 if self._batch_size is None else 16)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with tokens, labels or further numbers."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for array in (self._ids, self._types, self.token_counts, self.pairs.labels):
            digest.update(np.ascontiguousarray(array).astype("<i8").tobytes())
        for name, values in sorted(self._numbers.items()):
            digest.update(name.encode() + values.astype("<f4").tobytes())
        return digest.hexdigest()[:16]

    def _batch(self, indices: np.ndarray, length: int) -> dict[str, np.ndarray]:
        counts = self.token_counts[indices]
        return {
            "input_ids": self._ids[indices, :length],
            "attention_mask": (np.arange(length) < counts[:, None]).astype(np.int32),
            "token_type_ids": self._types[indices, :length],
            "label": self.pairs.labels[indices].astype(np.int32),
            **{name: values[indices] for name, values in self._numbers.items()},
        }
