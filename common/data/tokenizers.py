"""Text to token numbers and back: bytes, byte-pair encodings trained here, GPT-2's, and others'.

All that this module makes but the last are lossless: `decode(encode(text)) == text` for any text.
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from common.errors import DataError, UserError
from common.files import StrPath, open_data_file, replacing

PIECE = 100_000
PIECE_END = re.compile(r"[!-~](?=[ \n])")
"""Between a printable ASCII letter and white space no token of byte-level BPE reaches across."""

KINDS = "bytes, bpe:<size>, gpt2:<folder> or hub:<name or folder>"


class Tokenizer(Protocol):
    """Turns text into numbers from 0 to `vocab_size` - 1 and back."""

    @property
    def name(self) -> str:
        """What people call it, such as 'bpe:4096'."""
        ...

    @property
    def fingerprint(self) -> str:
        """A text that changes whenever some text would be encoded in another way."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of different tokens."""
        ...

    def encode(self, text: str) -> np.ndarray:
        """Returns the tokens (n,) int32 of a text; nothing is put before or after it."""
        ...

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of tokens (n,); bytes that are no UTF-8 come out as U+FFFD."""
        ...


class ByteTokenizer:
    """The bytes of a text's UTF-8: 256 tokens, nothing to train and nothing unknown."""

    name = "bytes"
    fingerprint = "bytes"
    vocab_size = 256

    def encode(self, text: str) -> np.ndarray:
        """Returns the bytes (n,) int32."""
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of bytes (n,)."""
        return np.asarray(ids).astype(np.uint8).tobytes().decode(errors="replace")


class BytePairTokenizer:
    """Byte-level byte-pair encoding (Sennrich et al. 2016; on bytes, Radford et al. 2019).

    Text is split as GPT-2 does, then bytes are merged. No text is unknown, and markers such as
    <|endoftext|> are ordinary text. Long texts are encoded in pieces cut where no token reaches
    across, so that the tokens are those of the whole at a fraction of the memory.

    Args:
        model: of the library `tokenizers`; its vocabulary must hold all 256 bytes.
        name: what people call it.
    """

    def __init__(self, model: models.BPE, name: str):
        self.name = name
        self._tokenizer = tokenizers.Tokenizer(model)
        self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._tokenizer.decoder = decoders.ByteLevel()

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self._tokenizer.get_vocab_size()

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the vocabulary and the merges."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        state = json.loads(self._tokenizer.to_str())["model"]
        text = json.dumps([sorted(state["vocab"].items()), state["merges"]])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def encode(self, text: str) -> np.ndarray:
        """Returns the tokens (n,) int32."""
        ids = [np.array(self._tokenizer.encode(part).ids, np.int32) for part in _pieces(text)]
        return np.concatenate(ids) if ids else np.empty(0, np.int32)

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of tokens (n,)."""
        return self._tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=False)

    def save(self, folder: StrPath) -> None:
        """Writes vocab.json and merges.txt, as `load_gpt2` reads them, into an existing folder.

        Raises:
            UserError: one of them exists, or cannot be written.
        """
        state = json.loads(self._tokenizer.to_str())["model"]
        merges = ["#version: 0.2", *(" ".join(pair) for pair in state["merges"])]
        files = {
            "vocab.json": json.dumps(state["vocab"], ensure_ascii=False),
            "merges.txt": "\n".join(merges) + "\n",
        }
        for name, text in files.items():
            with replacing(Path(folder) / name) as scratch:
                scratch.write_text(text, encoding="utf-8")


def _pieces(text: str) -> Iterator[str]:
    """Yields pieces of `PIECE` characters or a little more, cut where no token reaches across."""
    start = 0
    while start < len(text):
        end = PIECE_END.search(text, start + PIECE)
        stop = end.end() if end else len(text)
        yield text[start:stop]
        start = stop


def train_bpe(text: str, vocab_size: int) -> BytePairTokenizer:
    """Trains a byte-pair encoding on a text; the same text and size give the same encoding.

    Training merges the most frequent pairs of neighbours until there are `vocab_size` tokens. A
    short text may hold too few different pairs: then there are fewer. Train on the training split
    alone, or what the others hold leaks into the vocabulary.

    Raises:
        UserError: `vocab_size` is no integer of 256 or more.
    """
    if not isinstance(vocab_size, int) or vocab_size < 256:
        raise UserError(f"size of the vocabulary is {vocab_size!r}; expected 256 (bytes) or more")
    trained = BytePairTokenizer(models.BPE(), f"bpe:{vocab_size}")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    trained._tokenizer.train_from_iterator(_pieces(text), trainer)
    return trained


def load_gpt2(folder: StrPath, name: str = "gpt2") -> BytePairTokenizer:
    """Returns the byte-pair encoding in `vocab.json` and `merges.txt`, GPT-2's or another's.

    `encoder.json` and `vocab.bpe`, the names in OpenAI's release, will do as well. The marker
    <|endoftext|> keeps its number, 50256, but no text is encoded to it.

    Raises:
        DataError: a file is missing or damaged, or they do not belong together.
    """
    folder = Path(folder)
    old = (folder / "encoder.json").exists() and not (folder / "vocab.json").exists()
    paths = [
        folder / x for x in (("encoder.json", "vocab.bpe") if old else ("vocab.json", "merges.txt"))
    ]
    texts = []
    for path in paths:
        with open_data_file(path, "a file of GPT-2's tokenizer (openai-community/gpt2)") as file:
            texts.append(file.read())
    vocab = _vocabulary(paths[0], texts[0])
    merges = _merges(paths[1], texts[1])
    try:
        return BytePairTokenizer(models.BPE(vocab, merges), name)
    except Exception as error:  # tokenizers raises plain Exception
        raise DataError(f"{paths[1]}: merges do not fit {paths[0].name}: {error}") from error


def _vocabulary(path: Path, data: bytes) -> dict[str, int]:
    try:
        vocab = json.loads(data)
    except ValueError as error:
        raise DataError(f"{path}: no JSON: {error}") from error
    numbers = list(vocab.values()) if isinstance(vocab, dict) else []
    whole = bool(numbers) and all(type(number) is int for number in numbers)
    if not whole or set(numbers) != set(range(len(numbers))):
        raise DataError(f"{path}: expected tokens with the numbers from 0 on, each once")
    if missing := [x for x in pre_tokenizers.ByteLevel.alphabet() if x not in vocab]:
        raise DataError(f"{path}: {len(missing)} of 256 bytes have no token; expected all")
    return vocab


def _merges(path: Path, data: bytes) -> list[tuple[str, str]]:
    try:
        lines = data.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no UTF-8 at byte {error.start}") from error
    merges = []
    for number, line in enumerate(lines, 1):
        pair = line.rstrip("\r").split(" ")
        if (number == 1 and line.startswith("#version")) or pair == [""]:
            continue
        if len(pair) != 2:
            raise DataError(f"{path}: line {number}: expected two tokens with a space between")
        merges.append((pair[0], pair[1]))
    return merges


class PretrainedTokenizer:
    """Any tokenizer that `transformers` loads, without the special tokens it would put around.

    Whether decoding gives back the text is its own affair: BERT's uncased one drops case. Markers
    that it knows, such as <|endoftext|>, become special tokens where a text holds them.

    Args:
        source: a local folder, or a name on the hub.

    Raises:
        UserError: `transformers` finds no tokenizer there.
    """

    def __init__(self, source: StrPath):
        from transformers import AutoTokenizer  # takes seconds

        self.name = f"hub:{source}"
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(source))
        except Exception as error:  # transformers and the hub's client have a dozen kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"no tokenizer in {source}, nor on the hub: {reason}") from error

    @property
    def vocab_size(self) -> int:
        """One more than the largest number, added tokens included."""
        return max(self._tokenizer.get_vocab().values()) + 1

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the tokenizer's files."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        fast = getattr(self._tokenizer, "backend_tokenizer", None)
        state = fast.to_str() if fast else json.dumps(sorted(self._tokenizer.get_vocab().items()))
        return hashlib.sha256(f"{type(self._tokenizer).__name__}{state}".encode()).hexdigest()[:16]

    def encode(self, text: str) -> np.ndarray:
        """Returns the tokens (n,) int32."""
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return np.array(ids, np.int32)

    def decode(self, ids: np.ndarray) -> str:
        """Returns the text of tokens (n,)."""
        return self._tokenizer.decode(
            np.asarray(ids).tolist(), clean_up_tokenization_spaces=False, skip_special_tokens=False
        )


def make_tokenizer(kind: str, text: str) -> Tokenizer:
    """Returns the tokenizer that a configuration names.

    Args:
        kind: 'bytes'; 'bpe:4096', trained to that size; 'gpt2:<folder>' with vocab.json and
            merges.txt; or 'hub:<name or folder>', loaded by `transformers`.
        text: what to train on, where it is trained.

    Raises:
        UserError: another kind, or what the tokenizer itself refuses.
    """
    family, _, rest = kind.partition(":")
    if kind == "bytes":
        return ByteTokenizer()
    if family == "bpe" and rest.isdecimal():
        return train_bpe(text, int(rest))
    if family == "gpt2" and rest:
        return load_gpt2(rest)
    if family == "hub" and rest:
        return PretrainedTokenizer(rest)
    raise UserError(f"tokenizer is {kind!r}; choose {KINDS}")
