"""Models to compare with."""

from cssm.baselines.cnn import ConvNet

__all__ = ["ConvNet"]
