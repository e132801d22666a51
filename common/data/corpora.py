"""Text to model: WikiText-2, any text files, and made-up articles that need no file.

WikiText-2 (Merity et al. 2016, "Pointer sentinel mixture models") is read from a local folder that
holds `wiki.train.raw`, `wiki.valid.raw` and `wiki.test.raw`, or the same with `.tokens`, where rare
words are `<unk>`. Perplexities of the two variants are not comparable.
"""

import functools
import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from common.data.text import load_corpus
from common.errors import DataError, UserError
from common.files import StrPath, replacing

SPLITS = ("train", "valid", "test")
VARIANTS = ("raw", "tokens")
TEXT_SUFFIXES = (".txt", ".raw", ".tokens", ".md")

HUB_ID, HUB_CONFIGURATION = "Salesforce/wikitext", "wikitext-2-raw-v1"
SOURCE = f"the hub, {HUB_ID}, configuration {HUB_CONFIGURATION} (or download_wikitext does it)"

RELEASE_LINES = {"train": 36718, "valid": 3760, "test": 4358}
"""Lines of the released files, in both variants."""
RELEASE_SHA256 = {
    "wiki.test.raw": "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
}
"""Digests of released files that were at hand; the others are known by their lines alone."""

Say = Callable[[str], None]


@functools.cache
def print_warning(text: str) -> None:
    """Prints a line to standard error, the same one once."""
    print("warning:", text, file=sys.stderr, flush=True)


def read_wikitext(
    folder: StrPath, splits: Sequence[str] = SPLITS, say: Say = print_warning
) -> dict[str, str]:
    """Returns the splits of WikiText-2 in a folder, by name, as they are stored.

    A file that is not the released one, by its digest or its number of lines, is read all the
    same: parts and clean-ups of WikiText-2 are common, and only comparisons with published numbers
    suffer. `say` is told so, and `describe_text` gives what to write beside a result.

    Args:
        folder: holds `wiki.<split>.raw`, or `wiki.<split>.tokens` where none of the former is.
        splits: which to read, of 'train', 'valid' and 'test'.
        say: called with one line for each file that is not the released one.

    Raises:
        UserError: an unknown split.
        DataError: a file is missing or is no text; the message says where to get it.
    """
    if unknown := [split for split in splits if split not in SPLITS]:
        raise UserError(f"split is {unknown[0]!r}; choose of {', '.join(SPLITS)}")
    folder = Path(folder)
    texts = {}
    for split in splits:
        path = folder / f"wiki.{split}.{_variant(folder)}"
        if not path.exists():
            raise DataError(
                f"{path}: does not exist; expected a split of WikiText-2, to be had from {SOURCE}"
            )
        texts[split] = load_corpus(path)
        if difference := _difference(path.name, split, texts[split]):
            say(f"{path}: not the released file of WikiText-2: {difference}")
    return texts


def _variant(folder: Path) -> str:
    present = (v for v in VARIANTS if any((folder / f"wiki.{s}.{v}").exists() for s in SPLITS))
    return next(present, VARIANTS[0])


def _difference(name: str, split: str, text: str) -> str:
    """Returns in words how a text differs from the released one, or nothing."""
    lines = text.count("\n")
    if lines != RELEASE_LINES[split]:
        return f"{lines} lines; expected {RELEASE_LINES[split]}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    if digest != RELEASE_SHA256.get(name, digest):
        return f"SHA-256 is {digest[:16]}...; expected {RELEASE_SHA256[name][:16]}..."
    return ""


def download_wikitext(folder: StrPath) -> None:
    """Fetches WikiText-2 (raw) through the package `datasets` and writes the files of the release.

    `datasets` is no dependency of this project, and TFDS has no builder for WikiText. The hub keeps
    one row a line and an empty row for each blank line, which is a single space in the release: put
    back here, so the digests hold. Files that are there already are left alone.

    Raises:
        UserError: `datasets` is not installed, the hub cannot be reached, or a file not written.
    """
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise UserError(
            "download_wikitext needs the package datasets: pip install datasets; or put "
            f"wiki.train.raw, wiki.valid.raw and wiki.test.raw into {folder} by hand"
        ) from error
    folder = Path(folder)
    for split, name in zip(SPLITS, ("train", "validation", "test"), strict=True):
        path = folder / f"wiki.{split}.raw"
        if path.exists():
            continue
        try:
            rows = datasets.load_dataset(HUB_ID, HUB_CONFIGURATION, split=name)["text"]
        except Exception as error:  # the hub's client has a dozen kinds, for network and files
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"cannot fetch {HUB_ID} ({HUB_CONFIGURATION}): {reason}") from error
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch:
            scratch.write_bytes("".join(row or " \n" for row in rows).encode())


def read_text(path: StrPath) -> str:
    """Returns the text of a UTF-8 file, or of all text files of a folder in order of their names.

    Text files of a folder are those right in it that end in .txt, .raw, .tokens or .md and whose
    names do not begin with a dot. Where one does not end with a newline, one is put after it.

    Raises:
        DataError: nothing is there, a folder holds no text file, or one of them is no text.
    """
    path = Path(path)
    if not path.is_dir():
        return load_corpus(path)
    try:
        names = sorted(name for name in os.listdir(path) if not name.startswith("."))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    names = [name for name in names if name.lower().endswith(TEXT_SUFFIXES)]
    if not names:
        raise DataError(f"{path}: no text files; expected some of {', '.join(TEXT_SUFFIXES)}")
    texts = [load_corpus(path / name) for name in names]
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts)


def split_text(text: str, valid: float = 0.05, test: float = 0.05) -> dict[str, str]:
    """Cuts a text into 'train', 'valid' and 'test', in this order, at ends of lines.

    The three together are the text. The last share is the test split and the one before it the
    validation split; each begins with the first line that begins at or after its share.

    Args:
        text: what to cut.
        valid: share of the characters, 0 for no validation split (then it is empty).
        test: the same for the test split.

    Raises:
        UserError: shares below 0 or of 1 and more together, or lines too long to cut so.
    """
    if not (valid >= 0 and test >= 0 and valid + test < 1):
        raise UserError(
            f"shares of validation and test are {valid:g} and {test:g}; expected 0 or more, below "
            "1 together"
        )
    first = _line_start(text, len(text) - round((valid + test) * len(text)))
    second = _line_start(text, len(text) - round(test * len(text)))
    parts = {"train": text[:first], "valid": text[first:second], "test": text[second:]}
    for (split, part), share in zip(parts.items(), (1, valid, test), strict=True):
        if share and not part:
            raise UserError(
                f"the {split} split is empty: {len(text)} characters in {text.count(chr(10))} "
                "lines cannot be cut so at the ends of lines"
            )
    return parts


def _line_start(text: str, position: int) -> int:
    """Returns where the first line begins that begins at `position` or later."""
    if position in (0, len(text)):
        return position
    newline = text.find("\n", position - 1)
    return len(text) if newline < 0 else newline + 1


def describe_text(text: str) -> dict[str, int | str]:
    """Returns what tells a text from others, to be written beside results.

    Returns:
        'bytes' of its UTF-8, 'lines' (newlines), 'words' (between white space) and 'sha256' of the
        bytes. Perplexity per word and bits per byte are taken over these numbers.
    """
    data = text.encode()
    return {
        "bytes": len(data),
        "lines": text.count("\n"),
        "words": len(text.split()),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
