"""Saving and restoring the whole state of a training run; reading foreign checkpoints."""

from common.checkpoints.manager import CheckpointManager, SaveError, describe_mismatch
from common.checkpoints.pickles import read_pickle

__all__ = ["CheckpointManager", "SaveError", "describe_mismatch", "read_pickle"]
