"""Data: generated, read, shuffled and batched."""

from common.data.images import normalise_grey
from common.data.records import read_records
from common.data.text import load_corpus

__all__ = ["load_corpus", "normalise_grey", "read_records"]
