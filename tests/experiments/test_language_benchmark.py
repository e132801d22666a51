"""The benchmark of language models, on sizes that take no time."""

import sys

import pytest

from experiments.benchmarks import language


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, size in {"VOCABULARY": 40, "WIDTH": 16, "HEADS": 2, "LENGTH": 8}.items():
        monkeypatch.setattr(language, name, size)
    monkeypatch.setattr("experiments.benchmarks.timing.SAMPLE_S", 1e-4)
    monkeypatch.setattr(language, "BUILD", {"conv_attn": language.conv_attn})


@pytest.mark.parametrize("case", ["projection", "gelu", "cross_entropy", "attention"])
def test_kernels_stand_beside_an_equal_reference(case):
    rows = language.CASES[case](2, 1)
    assert [row["dtype"] for row in rows] == ["float32", "bfloat16"]
    assert rows[0]["error"] < 1e-5 and rows[1]["error"] < 0.05
    assert all(row["ratio"] > 0 for row in rows)


def test_a_step_and_decoding_are_timed():
    (step, _), (decoding,) = language.training_step(2, 1), language.decoding(2, 1)
    assert step["tokens_per_s"] == pytest.approx(1e3 * 2 * 8 / step["wall_ms"])
    assert decoding["ratio"] == pytest.approx(decoding["reference_wall_ms"] / decoding["wall_ms"])


def test_a_peer_that_fails_is_told_of():
    row = {"model": "conv_attn", "dtype": "float32", "cpu_ms": 1.0, "wall_ms": 1.0}
    beside = language.beside_peer(row, sys.executable, 2, 1)  # has no torch
    assert beside["peer"] == "failed: ModuleNotFoundError: No module named 'torch'"
