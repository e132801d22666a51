"""Saving and restoring the whole state of a training run; reading foreign checkpoints."""

from common.checkpoints.digests import leaf_digest, tree_digests
from common.checkpoints.manager import CheckpointManager, SaveError, describe_mismatch
from common.checkpoints.pickles import load_pickle

__all__ = [
    "CheckpointManager",
    "SaveError",
    "describe_mismatch",
    "leaf_digest",
    "load_pickle",
    "tree_digests",
]
