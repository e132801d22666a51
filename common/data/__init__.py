"""Data: generated, read, shuffled and batched."""

from common.data.corpora import describe_text, read_text, read_wikitext, split_text
from common.data.images import normalise_grey
from common.data.made_up import generate_text
from common.data.records import read_records
from common.data.sequences import (
    AssociativeRecall,
    Copying,
    GeneratedSequences,
    RepeatedSequences,
)
from common.data.text import load_corpus
from common.data.token_files import cached_tokens
from common.data.tokenizers import Tokenizer, make_tokenizer
from common.data.windows import TokenWindows

__all__ = [
    "AssociativeRecall",
    "Copying",
    "GeneratedSequences",
    "RepeatedSequences",
    "TokenWindows",
    "Tokenizer",
    "cached_tokens",
    "describe_text",
    "generate_text",
    "load_corpus",
    "make_tokenizer",
    "normalise_grey",
    "read_records",
    "read_text",
    "read_wikitext",
    "split_text",
]
