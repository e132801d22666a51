"""State space blocks, one file each, all with the same call."""

from cssm.blocks.ablations import (
    AsymmetricBlock,
    NoFeedbackBlock,
    NoKeyBlock,
    PartialReadoutBlock,
    SteadyGatesBlock,
    UnboundedBlock,
)
from cssm.blocks.base import StateSpaceBlock
from cssm.blocks.gated import GatedBlock
from cssm.blocks.gated_delta import GatedDeltaBlock
from cssm.blocks.hgru_bilinear import HGRUBilinearBlock
from cssm.blocks.no_fft import NoFFTBlock
from cssm.blocks.opponent import OpponentBlock
from cssm.blocks.spatial_attention import SpatialAttentionBlock
from cssm.blocks.stable import StableHGRUBilinearBlock, StableTransformerBlock
from cssm.blocks.standard import StandardBlock
from cssm.blocks.transformer import TransformerBlock

__all__ = [
    "AsymmetricBlock",
    "GatedBlock",
    "GatedDeltaBlock",
    "HGRUBilinearBlock",
    "NoFFTBlock",
    "NoFeedbackBlock",
    "NoKeyBlock",
    "OpponentBlock",
    "PartialReadoutBlock",
    "SpatialAttentionBlock",
    "StableHGRUBilinearBlock",
    "StableTransformerBlock",
    "StandardBlock",
    "StateSpaceBlock",
    "SteadyGatesBlock",
    "TransformerBlock",
    "UnboundedBlock",
]
