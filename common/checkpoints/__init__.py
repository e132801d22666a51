"""Saving and restoring the whole state of a training run; reading foreign checkpoints."""

from common.checkpoints.digests import leaf_digest, tree_digests
from common.checkpoints.manager import CheckpointManager, SaveError
from common.checkpoints.matching import describe_mismatch
from common.checkpoints.pickles import read_pickle
from common.checkpoints.reader import CheckpointReader
from common.checkpoints.record import DamagedCheckpoint

__all__ = [
    "CheckpointManager",
    "CheckpointReader",
    "DamagedCheckpoint",
    "SaveError",
    "describe_mismatch",
    "leaf_digest",
    "read_pickle",
    "tree_digests",
]
