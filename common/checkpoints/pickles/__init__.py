"""Pickles of arrays, read by an opcode machine that runs nothing."""

from common.checkpoints.pickles.reader import load_pickle, parse_pickle

__all__ = ["load_pickle", "parse_pickle"]
