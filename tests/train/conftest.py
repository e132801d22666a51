"""Compiles each program of the toy task once for all tests of this folder."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def once(cached_compilation):
    del cached_compilation
