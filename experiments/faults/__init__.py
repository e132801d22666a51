"""Faults put on real runs on purpose, and what becomes of the runs."""
