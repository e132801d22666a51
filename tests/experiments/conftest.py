"""Compiles each program of a run once."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def once(cached_compilation):
    del cached_compilation
