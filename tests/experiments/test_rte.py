"""Entailment configs, objectives, runs and their table."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from alcnet import Embeddings, Encoder, EncoderLayer
from common.errors import UserError
from experiments.cli import load_config
from experiments.configs.rte import ABLATIONS
from experiments.models.entailment import BRANCHES, make_alcnet
from experiments.reports import rte_table
from experiments.reports.pair_answers import Answers, require_two_classes
from experiments.rte import DEFAULT_CONFIG, main, train_and_evaluate
from experiments.tasks.rte import (
    Objective,
    Rates,
    make_task,
    smoothed_cross_entropy,
    symmetric_divergence,
)

VARIANTS = ("", "smoke", "rte", "rte_plain", "rte_top_left")
VARIANTS += tuple(f"rte_without_{parts}" for parts in ABLATIONS)
TINY = {
    "encoder.width": 8, "encoder.layers": 2, "encoder.heads": 2, "encoder.hidden": 8,
    "model.regions": (4,), "model.channels": 4, "model.blocks": 1, "model.features": 4,
    "data.train_count": 16, "data.validation_count": 8, "data.test_count": 8,
    "optim.warmup_steps": 1, "train.steps": 2, "train.batch_size": 4, "train.eval_batch_size": 4,
}  # fmt: skip

ENCODER_ALONE = {"model.branches": ("cls",), "encoder.layers": 1}


def variant(name, **overrides):
    return load_config(f"{DEFAULT_CONFIG}:{name}", overrides)


def tiny(**overrides):
    return load_config(f"{DEFAULT_CONFIG}:smoke", TINY | overrides)


def small_encoder():
    return Encoder(Embeddings(9, 8, 2, 8), (EncoderLayer(2, 8),))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_config_makes_a_model_of_its_parts(name):
    config = variant(name)
    model = make_alcnet(config.model, small_encoder())
    ids = jnp.zeros((2, 6), int)
    shapes = jax.eval_shape(model.init, jax.random.key(0), ids)["params"]
    parts = set(config.model.branches)
    assert ("cnn" in shapes, "film" in shapes) == ("cnn" in parts, "film" in parts)
    assert ("statistics" in shapes) == bool(parts & {"stats", "film"})
    read = {"cls": 8} | dict.fromkeys(("cnn", "stats"), config.model.features)
    inputs = sum(size for branch, size in read.items() if branch in parts)
    assert shapes["fusion"]["logits"]["kernel"].shape == (inputs, 2)


def test_ablations_are_each_of_their_own():
    chosen = {tuple(variant(f"rte_without_{parts}").model.branches) for parts in ABLATIONS}
    chosen |= {BRANCHES}
    assert len(chosen) == len(ABLATIONS) + 1
    assert tuple(variant("rte_without_cnn_stats").model.branches) == ("cls",)
    assert tuple(variant("rte_plain").model.branches) == ("cls",)
    plain, whole = (variant(name).to_dict() for name in ("rte_plain", "rte"))
    assert plain["model"].pop("branches") != whole["model"].pop("branches")
    assert plain == whole


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"model.branches": ("cls", "cmm")}, "model.branches is"),
        ({"model.branches": ("cls", "film")}, "has 'film' without 'cnn'"),
        ({"model.pooling": "max"}, "model.pooling is 'max'; choose one of mean, first"),
        ({"model.fusion": "sum"}, "model.fusion is 'sum'; choose one of concat, gated"),
        ({"model.fusion": "gated", "model.branches": ("cls",)}, "'gated' needs 'cls' and one of"),
        ({"model.visible": 0.0}, "model.visible is 0.0"),
        ({"model.regions": (0,)}, "model.regions is"),
        ({"model.statistics": "raw"}, "model.statistics is 'raw'"),
        ({"encoder.heads": 3}, "encoder.width 8 does not divide into 3 encoder.heads"),
        ({"encoder.dtype": "float16"}, "encoder.dtype is 'float16'"),
        ({"encoder.folder": "/nowhere"}, "/nowhere: no such folder"),
        ({"data.source": "tsv"}, "name its encoder.folder"),
        ({"data.facts": 1}, "config.data: facts is 1"),
        ({"data.lengths": (20, 10)}, "config.data.lengths is"),
        ({"data.lengths": (10,)}, "tokens; expected 10 at most"),
    ],
)
def test_values_that_cannot_be_used_are_named(override, message):
    with pytest.raises(UserError, match=message) as caught:
        make_task(tiny(**override))
    assert "\n" not in str(caught.value)


def test_the_rates_fall_towards_the_embeddings():
    params = {
        "encoder": {"embeddings": {"word": 0}, "layers_0": {"up": 0}, "layers_1": {"up": 0}},
        "fusion": {"logits": 0},
    }
    found = Rates(0.5, 3.0, -1)(params)
    assert found["encoder"] == {
        "embeddings": {"word": 0.25}, "layers_0": {"up": 0.5}, "layers_1": {"up": 1.0}
    }  # fmt: skip
    assert found["fusion"] == {"logits": 3.0}
    frozen = Rates(0.5, 3.0, 1)(params)["encoder"]
    assert [frozen[k] for k in frozen] == [{"word": 0.0}, {"up": 0.0}, {"up": 1.0}]
    assert Rates(1.0, 1.0, 0)(params)["encoder"]["embeddings"] == {"word": 0.0}


def test_smoothing_and_divergence_have_their_formulas():
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.standard_normal((4, 3)), jnp.float32) for _ in range(2))
    labels = jnp.array([0, 2, 1, 1])
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (np.asarray(a), np.asarray(b)))
    target = 0.8 * np.eye(3)[labels] + 0.2 / 3
    found = smoothed_cross_entropy(a, labels, 0.2)
    np.testing.assert_allclose(found, -(target * np.log(p)).sum(1), rtol=1e-5)
    kl = [(x * np.log(x / y)).sum(1) for x, y in ((p, q), (q, p))]
    np.testing.assert_allclose(symmetric_divergence(a, b), sum(kl) / 2, rtol=1e-4)
    objective = Objective(0.1, 0.3, 0.0, 10)
    levels = [float(objective.smoothing_at(jnp.asarray(s))) for s in (0, 5, 10, 20)]
    np.testing.assert_allclose(levels, [0.3, 0.2, 0.1, 0.1], atol=1e-6)


def losses(params, batch, **overrides):
    task = make_task(tiny(**ENCODER_ALONE, **overrides))
    return float(jax.jit(task.loss_at)(params, batch, jax.random.key(1), 0)[0])


def test_r_drop_costs_nothing_without_dropout_and_something_with_it():
    task = make_task(tiny(**ENCODER_ALONE))
    batch = task.train_source.__getitems__(np.arange(4))
    params = jax.jit(task.init)(jax.random.key(0))
    plain = losses(params, batch)
    np.testing.assert_allclose(losses(params, batch, **{"loss.r_drop": 1.0}), plain, rtol=1e-5)
    light, heavy = (
        losses(params, batch, **{"encoder.dropout": 0.4, "loss.r_drop": weight})
        for weight in (1.0, 50.0)
    )
    assert heavy > light + 1e-4


def test_the_loss_is_smoothed_by_the_step():
    task = make_task(tiny(**ENCODER_ALONE, **{"loss.smoothing_start": 0.5, "loss.smoothing": 0.0}))
    batch = task.train_source.__getitems__(np.arange(4))
    params = jax.jit(task.init)(jax.random.key(0))

    @jax.jit
    def both(params):
        loss, _ = task.loss_at(params, batch, jax.random.key(1), 1)
        return task.decide(params, batch).logits, loss

    logits, found = both(params)
    wanted = smoothed_cross_entropy(logits, batch["label"], 0.25).mean()
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_adapters_learn_and_the_encoder_does_not():
    task = make_task(tiny(**ENCODER_ALONE, **{"model.adapters": 2}))
    params = jax.jit(task.init)(jax.random.key(0))
    params["adapters"] = jax.tree.map(lambda x: x + 0.1, params["adapters"])
    batch = task.train_source.__getitems__(np.arange(4))
    slope = jax.jit(jax.grad(lambda p: task.loss(p, batch, jax.random.key(1))[0]))(params)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(slope["frozen"])) == 0
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(slope["adapters"])) > 0
    scales = task.learning_rate_scales(params)
    assert set(jax.tree.leaves(scales["frozen"])) == {0.0}
    assert set(jax.tree.leaves(scales["adapters"])) == {1.0}


def test_one_answer_for_all_is_not_trained():
    answers = Answers(np.array([0.6, 0.9, 0.51]), np.array([0, 0, 1]))
    with pytest.raises(
        UserError, match="not trained: all 3 answers are 'yes'; the accuracy of 66.7"
    ):
        require_two_classes(answers, ("yes", "no"))
    require_two_classes(Answers(np.array([0.6, 0.4]), np.array([0, 1])), ("yes", "no"))


@pytest.mark.slow  # test_entailment_analysis.py looks at the report of another run
def test_a_gated_run_ends_with_its_report_and_its_answers(tmp_path):
    config = tiny(**{"data.cache": str(tmp_path / "cache"), "model.fusion": "gated"})
    result = train_and_evaluate(config, tmp_path / "run")
    answers = json.loads((tmp_path / "run" / "predictions.json").read_text())
    right = np.mean((np.array(answers["probability"]) < 0.5) == np.array(answers["labels"]))
    assert result["test"]["accuracy"] == pytest.approx(right)
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    for words in ("majority class", "sequence length", "word overlap", "Surest mistakes"):
        assert words in page
    assert len(list((tmp_path / "cache").glob("pair-baselines-*.json"))) == 1


def test_a_model_of_one_class_ends_the_command_with_one_line(tmp_path, capsys):
    flags = [f"--config.{key}={value}" for key, value in TINY.items()]
    flags += ["--config.train.refuse_one_class=true", "--config.optim.learning_rate=1e-9"]
    flags += [f"--config.data.cache={tmp_path}", "--config.model.branches=('cls',)"]
    flags += ["--config.encoder.layers=1"]
    status = main([f"--config={DEFAULT_CONFIG}:smoke", f"--workdir={tmp_path / 'run'}", *flags])
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    error = capsys.readouterr().err.splitlines()[-1]
    assert status == 2 and error.startswith("error: not trained: all 8 answers are")
    assert "Not trained: the model answers" in page


def write_run(folder, branches, seed, right, probability=None):
    """Writes the folder of a finished run with so many of 10 answers right."""
    config = variant("rte").to_dict() | {"seed": seed}
    config["model"]["branches"] = branches
    environment = {"cpu": "Abacus", "cpu_cores": 2, "packages": {"jax": "1.2"}}
    environment["start_time"] = "2026-11-22T10:00:00+00:00"
    labels = [0, 1] * 5
    sure = [0.9 if (label == 0) == (i < right) else 0.1 for i, label in enumerate(labels)]
    answers = {"probability": probability or sure, "labels": labels}
    folder.mkdir(parents=True)
    contents = {"config": config, "environment": environment, "predictions": answers}
    contents["result"] = {"timing": {"elapsed_seconds": 60.0 + seed}}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def runs(tmp_path):
    for branches, rights in {
        ("cls",): (6, 7, 5),
        BRANCHES: (8, 9, 6),
        ("cls", "stats"): (7, 6, 8),
    }.items():
        for seed, right in enumerate(rights):
            write_run(tmp_path / f"{'_'.join(branches)}-{seed}", branches, seed, right)
    return tmp_path


def alike_table(folder):
    """Returns the table of runs in which every seed gains the same."""
    for seed in range(3):
        write_run(folder / f"plain-{seed}", ("cls",), seed, 6)
        write_run(folder / f"whole-{seed}", BRANCHES, seed, 8)
    return rte_table.rte_table(rte_table.read_pair_runs(folder))


def test_the_table_compares_over_seeds(runs, tmp_path, capsys):
    out = tmp_path / "table.md"
    assert rte_table.main([str(runs), f"--out={out}"]) == 0
    text = out.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert [row.split(" |")[0] for row in rows] == [
        "| whole model", "| without cnn (has cls, stats)", "| plain encoder (cls alone)"
    ]  # fmt: skip
    assert "| 76.7 ± 15.3 % | 60.0 to 90.0 %" in rows[0] and "1 min 01 s" in rows[0]
    gaps = np.array([0.2, 0.2, 0.1])
    test = stats.ttest_1samp(gaps, 0)
    low, high = test.confidence_interval()
    wanted = (
        f"{100 * gaps.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}], p = {test.pvalue:.2f}"
    )
    assert wanted in rows[0]
    assert f"The whole model against the plain encoder: {wanted} over 3 seeds; it helps." in text
    assert "For other seeds and other sentence pairs: [" in text
    assert "| +20.0 [+20.0, +20.0], p < 0.01 |" in alike_table(tmp_path / "alike")
    assert "against itself without the CNN" in text and "no difference is shown" in text


def test_the_interval_for_other_seeds_and_other_pairs():
    generator = np.random.default_rng(0)
    labels = np.zeros(40, int)

    def interval(whole, plain):
        runs: rte_table.Runs = {}
        for parts, rights in ((BRANCHES, whole), (("cls",), plain)):
            for seed, right in enumerate(rights):
                answers = Answers(np.where(right, 0.9, 0.1), labels)
                runs[parts, seed] = rte_table.PairRun({}, {}, answers, 0.0)
        return rte_table.crossed_interval(runs, BRANCHES, ("cls",))

    plain = generator.random((3, 40)) < 0.5
    gained = np.arange(40) % 4 == 0
    found = interval(plain | gained, plain & ~gained)  # all seeds gain the same pairs
    known = stats.ttest_1samp(gained.astype(float), 0).confidence_interval()
    np.testing.assert_allclose(found, known)
    won = np.arange(12) % 2 == 0
    found = interval(np.repeat(won[:, None], 40, 1), np.zeros((12, 40), bool))  # all pairs alike
    np.testing.assert_allclose(found, stats.ttest_1samp(won.astype(float), 0).confidence_interval())
    whole = generator.random((5, 40)) < 0.6
    low, high = interval(whole, plain[:1].repeat(5, 0))
    gains = whole.astype(float) - plain[0]
    error = np.sqrt(gains.mean(1).var(ddof=1) / 5 + gains.mean(0).var(ddof=1) / 40)
    assert (low + high) / 2 == pytest.approx(gains.mean())
    assert 1.96 * error < (high - low) / 2 < 2.78 * error
    with pytest.raises(ValueError, match="have 1 common seeds"):
        interval(whole[:1], plain)


def test_the_table_does_not_average_what_is_not_trained(runs):
    write_run(runs / "collapsed", ("cls",), 7, 0, [0.9] * 10)
    table = rte_table.rte_table(rte_table.read_pair_runs(runs))
    assert "Not trained, one class for all pairs: plain encoder (cls alone), seed 7." in table
    assert "| plain encoder (cls alone) | 3 |" in table


@pytest.mark.parametrize("problem", ["nowhere", "empty", "twice", "unlike", "no answers"])
def test_runs_that_make_no_table(runs, capsys, problem):
    folder = runs / "cls-1"
    if problem == "twice":
        write_run(runs / "again", ("cls",), 1, 5)
    if problem == "unlike":
        config = json.loads((folder / "config.json").read_text())
        config["train"]["steps"] = 7
        (folder / "config.json").write_text(json.dumps(config))
    if problem == "no answers":
        (folder / "predictions.json").unlink()
    where = {"nowhere": runs / "nowhere", "empty": Path(runs / "cls-0")}.get(problem, runs)
    assert rte_table.main([str(where)]) == 2
    error = capsys.readouterr().err
    words = {"nowhere": "is no folder", "empty": "holds no finished run", "twice": "one model and"}
    words |= {"unlike": "train.steps", "no answers": "--mode=report"}
    assert error.startswith("error: ") and words[problem] in error and error.count("\n") == 1
