"""The summary of gamma and beta: made of means over batches, drawn over training."""

import jax
import numpy as np
import pytest

from common.train.metrics import make_batch_sums, summarise
from experiments.analyses.entailment_film import film_over_training, film_series
from experiments.tasks.film_scores import film_moments, film_summary, without_moments

pytestmark = pytest.mark.usefixtures("quick_compilation")
rng = np.random.default_rng(2)


def drawn(count, channels, centre):
    """Values (count, channels) with a spread of their own over both."""
    return centre + rng.standard_normal(channels) + 1e-2 * rng.standard_normal((count, channels))


def test_the_summary_is_that_of_all_examples_at_once():
    blocks = [(drawn(10, c, 1.0), drawn(10, c, 0.0)) for c in (3, 5)]
    sums = make_batch_sums(lambda params, batch: film_moments(batch["pairs"]))
    parts = []
    for start in (0, 4, 8):
        part = np.minimum(np.arange(start, start + 4), 9)
        pairs = jax.tree.map(lambda x, part=part: x[part].astype(np.float32), blocks)
        parts.append(sums({}, {"pairs": pairs, "mask": np.arange(start, start + 4) < 10}))
    scores = summarise(jax.device_get(parts), 10)
    found = film_summary(scores)
    assert len(found) == 12
    for number, block in enumerate(blocks, 1):
        for name, values in zip(("gamma", "beta"), block, strict=True):
            stem = f"film_{number}_{name}"
            assert found[stem] == pytest.approx(values.mean(), abs=1e-5)
            assert found[f"{stem}_over_channels"] == pytest.approx(values.mean(0).std(), abs=1e-5)
            wanted = np.sqrt(values.var(0).mean())
            assert found[f"{stem}_over_examples"] == pytest.approx(wanted, rel=2e-2)
    assert without_moments(scores | found) == {"count": 10, **found}


def test_before_training_film_is_the_identity():
    ones = (np.ones((4, 2), np.float32), np.zeros((4, 2), np.float32))
    sums = make_batch_sums(lambda params, batch: film_moments([ones]))
    scores = summarise([jax.device_get(sums({}, {"mask": np.ones(4, bool)}))], 4)
    assert film_summary(scores) == {
        "film_1_gamma": 1.0, "film_1_gamma_over_channels": 0.0, "film_1_gamma_over_examples": 0.0,
        "film_1_beta": 0.0, "film_1_beta_over_channels": 0.0, "film_1_beta_over_examples": 0.0,
    }  # fmt: skip
    assert without_moments(scores) == {"count": 4}
    assert film_moments(()) == {} == film_summary({"loss": 1.0})


def test_the_record_is_read_and_drawn():
    def record(step, split="validation"):
        sides = {f"film_{n}_{side}": step + n for n in (1, 2) for side in ("gamma", "beta")}
        spreads = {
            f"{name}_over_{what}": 0.1 * n
            for name in sides
            for n, what in enumerate(("channels", "examples"), 1)
        }
        return {"step": step, "split": split, **sides, **spreads}

    series = film_series([record(5), {"step": 6, "split": "train", "loss": 1.0}, record(10)])
    assert list(series) == [(1, "gamma"), (1, "beta"), (2, "gamma"), (2, "beta")]
    wanted = [[0, 1, 0, 0], [5, 7, 0.1, 0.2], [10, 12, 0.1, 0.2]]
    np.testing.assert_allclose(series[2, "gamma"], wanted)
    figure = film_over_training(series)
    assert [axes.get_title("left") for axes in figure.axes] == ["gamma", "beta"]
    lines = [line.get_ydata() for line in figure.axes[1].get_lines()]
    np.testing.assert_allclose(lines[1], [0, 7, 12])
    assert film_series([{"step": 5, "split": "validation", "loss": 1.0}]) == {} == film_series([])
