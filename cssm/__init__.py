"""Spectral (cepstral) state space vision models."""

from cssm.model import SpectralClassifier
from cssm.simple import SimpleCSSM
from cssm.upstream import checkpoint_to_model

__all__ = ["SimpleCSSM", "SpectralClassifier", "checkpoint_to_model"]
