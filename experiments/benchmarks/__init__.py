"""Benchmarks: each times a kernel beside its reference in one process and writes JSON."""
