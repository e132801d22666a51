"""Tokens of a text on disk: encoded once, memory-mapped ever after."""

import hashlib
import json
from pathlib import Path

import numpy as np

from common.data.corpora import Say, print_warning
from common.data.tokenizers import Tokenizer
from common.errors import UserError
from common.files import StrPath, replacing

FORMAT = 1
MANIFEST, TOKENS = "manifest.json", "tokens.npy"


def cached_tokens(
    text: str, tokenizer: Tokenizer, cache: StrPath = "data", say: Say = print_warning
) -> np.ndarray:
    """Returns the tokens (n,) of a text, uint16 or int32, encoded on the first call only.

    They lie in `<cache>/tokens/<digest of text and tokenizer>`, in a folder that is there whole or
    not at all, and come back memory-mapped. Length and SHA-256 are checked whenever they are
    opened; what is damaged is encoded again, and `say` is told.

    Args:
        text: what to encode.
        tokenizer: what encodes it.
        cache: folder under which `tokens` is kept.
        say: called with one line where a damaged file is found.

    Raises:
        UserError: the cache cannot be written.
    """
    folder = Path(cache) / "tokens" / _digest(text, tokenizer)
    if folder.exists():
        tokens = _open(folder)
        if tokens is not None:
            return tokens
        say(f"{folder}: damaged tokens; they are made again")
    tokens = tokenizer.encode(text)
    tokens = tokens.astype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32)
    try:
        _write(folder, tokens, _describe(text, tokenizer))
    except UserError:
        if _open(folder) is None:  # else another process was first
            raise
    return np.load(folder / TOKENS, mmap_mode="r", allow_pickle=False)


def _describe(text: str, tokenizer: Tokenizer) -> dict[str, int | str]:
    return {
        "format": FORMAT,
        "tokenizer": tokenizer.name,
        "vocab_size": tokenizer.vocab_size,
        "text_bytes": len(text.encode()),
    }


def _write(folder: Path, tokens: np.ndarray, manifest: dict[str, int | str]) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder.parent}: {error.strerror or error}") from error
    with replacing(folder, overwrite=True) as scratch:
        scratch.mkdir()
        np.save(scratch / TOKENS, tokens)
        manifest = manifest | {"tokens": len(tokens), "sha256": _file_digest(scratch / TOKENS)}
        (scratch / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _digest(text: str, tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(f"{FORMAT}\0{tokenizer.fingerprint}\0".encode())
    digest.update(text.encode())
    return digest.hexdigest()[:32]


def _open(folder: Path) -> np.ndarray | None:
    """Returns the tokens of a folder, or None where anything about them is wrong."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["sha256"] != _file_digest(folder / TOKENS):
            return None
        tokens = np.load(folder / TOKENS, mmap_mode="r", allow_pickle=False)
        return tokens if tokens.shape == (manifest["tokens"],) else None
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
