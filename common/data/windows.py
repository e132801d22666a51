"""Windows of a long row of tokens, as examples for training and for scoring."""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from common.data.checks import require_integer
from common.data.pipeline import Batch, Example
from common.errors import UserError


class TokenWindows:
    """Windows of `context` predictions each, as a random-access source of examples.

    An example is 'tokens' (context + 1,) int32 and 'scored' (context,) bool: position i sees tokens
    0 to i and predicts tokens[i + 1]; the loss counts where 'scored' is True. Window w begins at
    token w * stride. Every token of the row but the very first is the target of exactly one scored
    prediction: windows that overlap score only what no earlier one has, so the first scores all of
    its predictions and the others their last `stride`, each with context - stride tokens or more to
    go by. The last window is filled up with copies of the last token, not scored.

    For training let windows not overlap, which is the default. For scoring, a smaller stride gives
    lower and slower perplexities: state context and stride beside them.

    Args:
        tokens: (n,) integers, may be memory-mapped; two or more.
        context: predictions in a window, 1 or more.
        stride: tokens between the beginnings of windows, 1 to `context`; None for `context`.

    Attributes:
        context: as given.
        stride: as given, or `context`.
        targets: number of scored predictions in all, n - 1.

    Raises:
        UserError: an argument that does not fit.
    """

    def __init__(self, tokens: np.ndarray, context: int, stride: int | None = None):
        stride = context if stride is None else stride
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise UserError(f"tokens are {tokens.dtype} {tokens.shape}; expected integers (n,)")
        if len(tokens) < 2:
            raise UserError(f"{len(tokens)} tokens; expected 2 or more, as each predicts the next")
        require_integer("context", context, 1)
        require_integer("stride", stride, 1, context)
        self.context, self.stride = int(context), int(stride)
        self.targets = len(tokens) - 1
        self._tokens = tokens

    def __len__(self) -> int:
        """Returns the number of windows."""
        return 1 + max(0, -(-(self.targets - self.context) // self.stride))

    def __getitem__(self, index: int) -> Example:
        """Returns one example: 'tokens' (context + 1,) int32 and 'scored' (context,) bool."""
        batch = self.__getitems__(np.array([range(len(self))[index]]))
        return {name: array[0] for name, array in batch.items()}

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """Returns the examples at `indices` (b,), from 0 on, as one batch."""
        indices = np.asarray(indices)
        places = indices[:, None] * self.stride + np.arange(self.context + 1)
        tokens = self._tokens[np.minimum(places, self.targets)].astype(np.int32)
        fresh = np.arange(self.context) >= self.context - self.stride
        scored = (places[:, 1:] <= self.targets) & (fresh | (indices[:, None] == 0))
        return {"tokens": tokens, "scored": scored}

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with tokens, context or stride. The first use reads all."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.context} {self.stride} {len(self._tokens)}\n".encode())
        for start in range(0, len(self._tokens), 2**20):
            digest.update(self._tokens[start : start + 2**20].astype("<i8").tobytes())
        return digest.hexdigest()[:16]
