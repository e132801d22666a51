"""Pairs of sentences with a label: read from GLUE, or generated."""

from common.data.pairs.examples import Pairs
from common.data.pairs.facts import WordTokens, make_facts
from common.data.pairs.glue import GLUE, load_glue, read_glue_tsv
from common.data.pairs.overlap import overlap_features
from common.data.pairs.tokens import FolderTokens, PairTokenizer, TokenPairs

__all__ = [
    "GLUE",
    "FolderTokens",
    "PairTokenizer",
    "Pairs",
    "TokenPairs",
    "WordTokens",
    "load_glue",
    "make_facts",
    "overlap_features",
    "read_glue_tsv",
]
