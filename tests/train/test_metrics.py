import jax.numpy as jnp
import numpy as np
import pytest

from common.train import EvaluationStopped, evaluate, format_scores, wilson_interval
from tests.train.toy import GatheringSource, ToyTask


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (8, 10, 0.4901625, 0.9433178),
        (50, 100, 0.4038315, 0.5961685),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval_against_published_values(successes, n, low, high):
    np.testing.assert_allclose(wilson_interval(successes, n), (low, high), atol=5e-8)


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    return {
        "hidden": {"kernel": rng.normal(size=(4, 3)).astype(np.float32)},
        "head": {"kernel": rng.normal(size=(3, 2)).astype(np.float32), "bias": np.zeros(2, "f4")},
    }


@pytest.mark.parametrize("batch_size", [1, 7, 10, 64])
def test_padding_changes_no_score(params, batch_size):
    task, source = ToyTask(), GatheringSource(20, seed=5)
    scores = evaluate(task, params, source, batch_size)
    direct = task.score(params, {"x": source.x, "label": source.label})
    direct = {name: np.asarray(value, np.float64) for name, value in direct.items()}
    assert scores["loss"] == pytest.approx(direct["loss"].mean(), rel=1e-6)
    assert scores["accuracy"] == direct["accuracy"].mean()
    right = int(direct["accuracy"].sum())
    assert (scores["accuracy_low"], scores["accuracy_high"]) == wilson_interval(right, 20)
    assert scores["count"] == 20
    assert set(scores) == {"loss", "accuracy", "accuracy_low", "accuracy_high", "count"}


class Scored(ToyTask):
    """Gives what a test wants as the score."""

    def __init__(self, score):
        super().__init__()
        self.score = score


def test_what_padding_scores_does_not_matter():
    class Numbers:
        fingerprint = "0 1 2"

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {"x": np.array(index, np.float32)}

    def score(params, batch):
        assert "mask" not in batch
        first_of_its_value = jnp.append(True, batch["x"][1:] != batch["x"][:-1])
        return {"value": jnp.where(first_of_its_value, batch["x"], jnp.nan)}

    assert evaluate(Scored(score), {}, Numbers(), 4) == {"value": 1.0, "count": 3}


def test_weights_say_how_much_an_example_counts(params):
    source = GatheringSource(20, seed=5)

    def score(params, batch):
        del params
        return {"value": batch["x"][:, 0], "weight": 1.0 + batch["label"]}

    task = Scored(score)
    scores = evaluate(task, params, source, 7)
    weight = 1.0 + source.label
    assert scores["value"] == pytest.approx(np.average(source.x[:, 0], weights=weight), rel=1e-5)
    assert scores["weight"] == weight.sum()
    assert set(scores) == {"value", "weight", "count"}
    assert format_scores(scores).endswith(" on 20 examples")
    assert "weight" not in format_scores(scores)


def test_a_task_may_add_what_follows_from_the_means(params):
    task = ToyTask()
    task.derive = lambda source, scores: scores | {"perplexity": np.exp(scores["loss"])}
    source = GatheringSource(20, seed=5)
    scores = evaluate(task, params, source, 7)
    assert scores["perplexity"] == pytest.approx(np.exp(scores["loss"]))


def test_a_score_must_be_per_example(params):
    task = Scored(lambda params, batch: {"loss": jnp.zeros(())})
    with pytest.raises(ValueError, match=r"score 'loss' has shape \(\), expected \(5,\)"):
        evaluate(task, params, GatheringSource(20, seed=5), 5)


def test_scores_are_told_with_their_interval():
    scores = {"loss": 0.25, "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "count": 9}
    assert format_scores(scores) == "loss 0.25, accuracy 0.5 (0.4 to 0.6) on 9 examples"


def test_scoring_breaks_off_when_asked(params):
    asked = iter([False, False, True])
    with pytest.raises(EvaluationStopped):
        evaluate(ToyTask(), params, GatheringSource(20, 5), 5, stop=lambda: next(asked))
