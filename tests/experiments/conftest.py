"""Compiles without optimisation, and each program of a run once."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def quickly(quick_compilation, cached_compilation):
    del quick_compilation, cached_compilation
