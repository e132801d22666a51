"""Data: generated, read, shuffled and batched."""

from common.data.images import normalise_grey

__all__ = ["normalise_grey"]
