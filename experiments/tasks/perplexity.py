"""The log pseudo-perplexity of pairs, by the encoder as it was before any training on them."""

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from alcnet import (
    PERPLEXITY,
    NoWordHead,
    PseudoPerplexity,
    find_folder,
    load_encoder,
    load_word_head,
)
from common.array_types import PyTree
from common.checkpoints.tensors import load_safetensors, save_safetensors
from common.data.pairs import FolderTokens, TokenPairs
from common.errors import UserError

BATCH = 8
"""Pairs that are scored together."""
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclasses.dataclass(frozen=True)
class PairPerplexity:
    """Gives pairs their log pseudo-perplexity, computed once and kept.

    Attributes:
        measure: computes it.
        variables: of the encoder and of its head.
        cache: folder for what was computed.
        digest: 16 hex digits that change with the weights and with all that shapes the result.
    """

    measure: PseudoPerplexity
    variables: tuple[PyTree, PyTree]
    cache: Path
    digest: str

    def attach(self, source: TokenPairs) -> TokenPairs:
        """Returns the pairs with the number `PERPLEXITY`, from the cache where it is there."""
        file = self.cache / f"pair-perplexity-{source.fingerprint}-{self.digest}.safetensors"
        if file.is_file():
            values = load_safetensors(file)[PERPLEXITY]
        else:
            print(f"{PERPLEXITY} of {len(source):,} pairs, kept in {file}", file=sys.stderr)
            values = self.compute(source)
            self.cache.mkdir(parents=True, exist_ok=True)
            save_safetensors(file, {PERPLEXITY: values}, overwrite=True)
        return source.with_numbers(PERPLEXITY, values)

    def compute(self, source: TokenPairs) -> np.ndarray:
        """Returns the log pseudo-perplexity (n,) of every pair, the short ones together."""
        measure = jax.jit(self.measure)
        order = np.argsort(source.token_counts, kind="stable")
        values = np.zeros(len(source), np.float32)
        for start in range(0, len(order), BATCH):
            part = order[np.minimum(np.arange(start, start + BATCH), len(order) - 1)]
            batch = source.__getitems__(part)
            values[part] = measure(*self.variables, *(batch[name] for name in INPUTS))
        return values


def open_perplexity(config: ConfigDict) -> PairPerplexity:
    """Reads the encoder of `config.encoder.folder` in float32, with its head for masked words.

    Raises:
        UserError: no such encoder, head or mask token, or no branch that reads statistics.
    """
    chosen = config.encoder.folder
    if not chosen:
        raise _refusal("encoder.folder is '', an encoder to be trained from nothing")
    if not {"stats", "film"} & set(config.model.branches):
        raise _refusal("model.branches has neither 'stats' nor 'film'")
    folder = find_folder(chosen)
    try:
        head, head_variables = load_word_head(folder)
    except NoWordHead:
        raise _refusal(f"encoder.folder {chosen!r} has no such head") from None
    encoder, variables = load_encoder(folder, tell=lambda line: None)
    tokens = FolderTokens(folder)
    if tokens.mask_id is None:
        raise _refusal(f"the tokenizer of encoder.folder {chosen!r} has no mask token")
    measure = PseudoPerplexity(encoder, head, tokens.mask_id, tokens.frame_ids)
    both = jax.device_get((variables, head_variables))
    return PairPerplexity(measure, both, Path(config.data.cache), _digest(measure, both))


def _refusal(reason: str) -> UserError:
    return UserError(
        "model.perplexity is True; expected a pretrained encoder with a head for masked words, and "
        f"a branch that reads statistics: {reason}"
    )


def _digest(measure: PseudoPerplexity, variables: Any) -> str:
    """Returns what changes with modules, ids and weights, and not with where they are stored."""
    digest = hashlib.sha256(repr(dataclasses.replace(measure, places=1)).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
