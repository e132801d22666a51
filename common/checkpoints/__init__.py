"""Saving and restoring the whole state of a training run."""

from common.checkpoints.manager import CheckpointManager, SaveError, describe_mismatch

__all__ = ["CheckpointManager", "SaveError", "describe_mismatch"]
