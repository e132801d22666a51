"""State space blocks, one file each, all with the same call."""

from cssm.blocks.transformer import TransformerBlock

__all__ = ["TransformerBlock"]
