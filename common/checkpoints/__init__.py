"""Saving and restoring the whole state of a training run; reading foreign checkpoints."""

from common.checkpoints.digests import leaf_digest, tree_digests
from common.checkpoints.files import load_checkpoint, save_checkpoint, verify_checkpoint
from common.checkpoints.loading import load_into
from common.checkpoints.manager import CheckpointManager, SaveError
from common.checkpoints.matching import describe_mismatch
from common.checkpoints.pickles import load_pickle
from common.checkpoints.reader import CheckpointReader
from common.checkpoints.record import DamagedCheckpoint
from common.checkpoints.tensors import (
    check_shapes,
    load_hf_tensors,
    load_safetensors,
    save_safetensors,
)

__all__ = [
    "CheckpointManager",
    "CheckpointReader",
    "DamagedCheckpoint",
    "SaveError",
    "check_shapes",
    "describe_mismatch",
    "leaf_digest",
    "load_checkpoint",
    "load_hf_tensors",
    "load_into",
    "load_pickle",
    "load_safetensors",
    "save_checkpoint",
    "save_safetensors",
    "tree_digests",
    "verify_checkpoint",
]
