"""Spectral (cepstral) state space vision models."""

from cssm.model import SimpleCSSM, SpectralClassifier

__all__ = ["SimpleCSSM", "SpectralClassifier"]
