"""Pickles of arrays, read by an opcode machine that runs nothing."""

from common.checkpoints.pickles.reader import load_pickle, other_format, parse_pickle

__all__ = ["load_pickle", "other_format", "parse_pickle"]
