"""A trained model taken apart, section by section: each measures, draws and says what it shows."""

from experiments.analyses.subject import Subject, open_subject

__all__ = ["Subject", "open_subject"]
