"""Compiles quickly: these tests compile many programs and run each of them once or twice."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def quickly(quick_compilation):
    del quick_compilation
    yield
