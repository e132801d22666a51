"""The page of a model of pairs, and its measures against known answers."""

import json
import shutil
import types

import jax.numpy as jnp
import numpy as np
import pytest

from common.data.pairs import TokenPairs, WordTokens, make_facts
from experiments.analyses import entailment_branches as branches
from experiments.analyses.entailment import SECTIONS, open_subject
from experiments.analyses.entailment_gradients import check_chain_rule, flow
from experiments.analyses.entailment_maps import patch_scores, pressure
from experiments.reports.record import read_record
from experiments.reports.rte import plain_beside
from experiments.rte import RUNS, analyze, make_task
from tests.experiments.test_rte import tiny

rng = np.random.default_rng(0)


def test_effective_rank():
    directions = np.linalg.qr(rng.standard_normal((40, 5)))[0]
    even = directions[:, :3] - directions[:, :3].mean(0)
    assert branches.effective_rank(np.outer(np.arange(9.0), [1, 2])) == pytest.approx(1)
    assert 2.5 < branches.effective_rank(even) <= 3 + 1e-9
    assert branches.effective_rank(np.ones((5, 2))) == 0


def test_explained_by():
    x = np.arange(20.0)
    columns = np.stack([3 * x + 1, np.ones(20), np.tile([1.0, -1.0, -1.0, 1.0], 5)], 1)
    assert branches.explained_by(x, columns) == pytest.approx(1 / 3, abs=1e-3)


def test_probes_on_all_seven_combinations_find_what_is_there():
    labels = rng.integers(0, 2, 120)
    features = {name: rng.standard_normal((120, 3)) for name in ("cls", "cnn", "stats")}
    features["stats"][:, 0] = labels
    scores = branches.probe_scores(features, labels)
    assert len(scores) == 7 and "CNN+CLS+Stats" in scores
    for name, score in scores.items():
        assert (score.accuracy > 0.9) == ("Stats" in name)


def test_a_branch_held_at_its_mean():
    labels = np.array([0, 1] * 10)
    sign = np.where(labels == 0, 1.0, -1.0)[:, None]
    features = {"cls": np.zeros((20, 1)), "cnn": sign}
    head = {"logits": {"kernel": jnp.array([[0.0, 0.0], [1.0, -1.0]]), "bias": jnp.array([0.1, 0])}}
    model = types.SimpleNamespace(fusion="concat", branches=("cls", "cnn"))
    logits = np.concatenate([features["cls"], sign], 1) @ np.asarray(head["logits"]["kernel"])
    subject = types.SimpleNamespace(
        config=types.SimpleNamespace(model=model), params={"fusion": head},
        features=features, logits=logits, labels=labels,
    )  # fmt: skip
    rows = branches._held_at_mean(subject)
    assert rows == [("CLS", "100.0 %", "0.0 %"), ("CNN", "50.0 %", "50.0 %")]


def test_the_first_pairs_are_a_source():
    source = TokenPairs(make_facts(10, 2, 0), WordTokens(), (32,))
    part = source.first(4)
    assert len(part) == 4 and len(source) == 10
    assert part.fingerprint != source.fingerprint
    np.testing.assert_array_equal(part[3]["input_ids"], source[3]["input_ids"])


def test_signal_is_found_in_the_corner_where_it_is():
    labels = rng.integers(0, 2, 60)
    maps = rng.random((60, 2, 8, 8, 3))
    maps[:, 1, :2, :2, 0] += labels[:, None, None]
    maps /= maps.sum(3, keepdims=True)
    reading = types.SimpleNamespace(maps=maps, mask=np.zeros((60, 8, 8), bool))
    reading.mask[:, :2, :2] = True
    source = TokenPairs(make_facts(60, 2, 0), WordTokens(), (32,))
    subject = types.SimpleNamespace(source=source, read=lambda params, count: (reading, labels))
    (seen, features), (hidden, _) = patch_scores(subject, {}).values()
    assert features == 6 and seen.accuracy > 0.9 and hidden.accuracy < 0.7


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = tiny(**{"data.cache": str(folder.parent), "model.visible": 0.5, "data.test_count": 24})
    return config, folder, RUNS.train_and_evaluate(config, folder)


def test_a_run_ends_with_its_report_and_its_answers(run):
    _, folder, result = run
    answers = json.loads((folder / "predictions.json").read_text())
    right = np.mean((np.array(answers["probability"]) < 0.5) == (np.array(answers["labels"]) == 0))
    assert result["test"]["accuracy"] == pytest.approx(right)
    page = (folder / "report" / "report.html").read_text()
    for words in ("majority class", "sequence length", "word overlap", "Surest mistakes"):
        assert words in page
    assert len(list(folder.parent.glob("pair-baselines-*.json"))) == 1


def test_the_plain_encoder_stands_beside_where_it_was_trained_alike(run, tmp_path):
    config, folder, _ = run
    own = read_record(config, tmp_path / "whole", {})
    assert plain_beside(own) == {}
    plain = tmp_path / "plain"
    shutil.copytree(folder, plain, ignore=shutil.ignore_patterns("checkpoints"))
    settings = json.loads((plain / "config.json").read_text())
    settings["model"]["branches"] = ["cls"]
    (plain / "config.json").write_text(json.dumps(settings))
    answers = {"probability": [0.9] * 6 + [0.1] * 2, "labels": [0] * 5 + [1] * 3}
    (plain / "predictions.json").write_text(json.dumps(answers))
    assert plain_beside(own)["plain encoder"].value == 7 / 8
    settings["optim"]["learning_rate"] *= 2
    (plain / "config.json").write_text(json.dumps(settings))
    assert plain_beside(own) == {}


@pytest.mark.slow
def test_the_page_has_every_section(run, capsys):
    config, folder, _ = run
    analyze(config, folder)
    page = (folder / "analysis" / "analysis.html").read_text()
    assert str(folder / "analysis" / "analysis.html") in capsys.readouterr().out
    headings = ("Ablations", "Dependence between", "Variance of", "Linear probes", "FiLM: what")
    headings += ("Dependence on length", "Gradient flow", "The chain rule", "Where the CNN presses")
    headings += ("Training behind a patch", "Discussion")
    assert len(headings) == len(SECTIONS)
    for words in (*headings, "Over training", "visible patch, top left, before training"):
        assert words in page, words
    for name in ("film", "gradient_flow", "heat_maps", "heat_maps_by_layer", "probes"):
        assert (folder / "analysis" / f"{name}.png").stat().st_size > 1_000
    assert "from training pairs" in page and "After 2 steps the model answers" in page
    assert page.count("layer -2: ") == 6 and page.count("layer -1: ") == 9


@pytest.mark.slow  # tests/alcnet/test_model.py holds the same of another model
def test_gradients_through_a_branch_are_those_of_that_branch(run):
    config, folder, _ = run
    subject = open_subject(config, folder, make_task(config))
    whole, cnn = flow(subject, [None, "cnn"])
    assert whole.shape == (2, 3) and (whole > 0).all()
    assert cnn[-1, 2] == 0 and (cnn[:, :2] > 0).all() and cnn[0, 2] > 0
    layer, query, key, value = check_chain_rule(subject)
    assert layer == 1 and value == 0 and max(query, key) < 1e-4
    pressed = pressure(subject, subject.params)
    assert pressed.shape == (2, 2, 4, 4)
    assert pressed[:, :, :2, :2].max() > 0
    pressed[:, :, :2, :2] = 0
    assert pressed.max() == 0
