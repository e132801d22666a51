"""The benchmark of training steps: what it counts, what it compares, and every model in it."""

import math

import jax
import jax.numpy as jnp
import pytest

from cssm.simple import BLOCKS
from experiments.benchmarks import cssm_step
from experiments.benchmarks.cssm_step import (
    BASELINES,
    CASES,
    PUBLIC,
    Case,
    Public,
    compare,
    measure,
    models_for,
    training_step,
)

TINY = Case(2, 16, 8, True, Public(1.0, 100.0, 1000.0, 10.0, "L4", 1.0))


def test_ratios_scale_the_public_times_by_v1():
    row = {"cpu_ms": 200.0, "compile_cpu_s": 4.0, "temporary_mb": 50.0, "peak_rss_mb": 500.0}
    public = Public(5.0, 400.0, 3000.0, 80.0, "S1", 100.0)
    ratios = compare("i_video", public, row, v1_cpu_ms=50.0)  # this machine is twice as fast
    assert ratios["CPU time ratio"] == pytest.approx(5.0 * 0.5 / 0.2)
    assert ratios["compile time ratio"] == pytest.approx(80.0 * 0.5 / 4.0)
    assert ratios["temporary memory ratio"] == pytest.approx(8.0)
    assert ratios["peak RSS ratio"] == pytest.approx(6.0)


def test_cases_have_the_public_shapes():
    assert (PUBLIC["i"].v1_case, PUBLIC["ii"].v1_case) == ("S1", "S2")
    shapes = {name: (case.batch, case.size, case.width) for name, case in CASES.items()}
    assert shapes["i_video"] == shapes["i_still"] == (4, 64, 32)
    assert shapes["ii_video"] == shapes["ii_still"] == (2, 128, 64)
    assert set(models_for(CASES["i_still"])) == {
        *(name for name in BLOCKS if "_read_" not in name),
        *BASELINES,
    }
    assert set(BASELINES) - set(models_for(CASES["i_video"])) == {"vit", "resnet", "conv_net"}


@pytest.mark.parametrize("name", ["transformer", "gdn", "hgru", "vit"])
def test_models_of_each_kind_make_a_step(name):
    still = Case(2, 16, 8, False, TINY.public)
    cases = [case for case in (still, TINY) if name in models_for(case)]
    for case in cases:
        jax.eval_shape(lambda case=case: run_step(name, case))


def run_step(name, case):
    step, arguments = training_step(cssm_step.make(name, case.width), case)
    before, after = arguments[0], step(*arguments)[1]
    assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)


@pytest.mark.slow
def test_a_row_has_all_that_the_table_promises():
    row = measure("tiny", TINY, "transformer", repeats=1)
    ratios = row.pop("beside_public")
    assert row.pop("case") == "tiny" and row.pop("model") == "transformer"
    assert {"parameters", "gflops", "wall_ms", "cpu_ms", "temporary_mb", "peak_rss_mb"} < set(row)
    assert all(math.isfinite(value) and value > 0 for value in row.values() if value != row["load"])
    assert ratios["CPU time ratio"] > 0 and row["peak_rss_mb"] > 100
