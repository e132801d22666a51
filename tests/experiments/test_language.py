"""The language experiment: every config makes a step, runs train, score and make their pages."""

import itertools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.data.pipeline import gather
from common.errors import UserError
from common.train import NoProgress, evaluate, fit, restore_params
from experiments.analyses import language as look
from experiments.cli import load_config
from experiments.comparisons.language import CONFIG, members
from experiments.comparisons.members import Member
from experiments.comparisons.results import spread
from experiments.comparisons.running import train_one
from experiments.configs import language as configs
from experiments.language import DEFAULT_CONFIG, main
from experiments.reports.language_comparison import write_page
from experiments.tasks.language import make_task

WIKITEXT = Path(__file__).parents[1] / "data" / "wikitext"
SMALL = {"model.width": 8, "data.train_count": 64, "data.validation_count": 8}
SMALL |= {"data.test_count": 8, "train.batch_size": 4, "train.eval_batch_size": 4}


def make(variant, tmp_path, **fields):
    overrides = {key.replace("__", "."): value for key, value in fields.items()}
    config = load_config(f"{DEFAULT_CONFIG}:{variant}", overrides)
    if "cache" in config.data:
        config.data.cache = str(tmp_path / "cache")
    return config, make_task(config)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        *itertools.product(configs.MODELS, ["repeats"]),
        *itertools.product(["conv_attn"], ["recall", "copying", "made_up"]),
    ],
)
def test_every_config_has_a_loss(model, data, tmp_path):
    """Shapes alone, nothing is computed."""
    config, task = make(f"model={model},data={data}", tmp_path)
    batch = gather(task.train_source, np.arange(config.train.batch_size))
    params = jax.eval_shape(task.init, jax.random.key(0))
    loss, metrics = jax.eval_shape(task.loss, params, batch, jax.random.key(0))
    assert loss.shape == metrics["accuracy"].shape == ()
    scores = jax.eval_shape(task.score, params, batch)
    assert set(scores) == {"loss", "accuracy", "log_likelihood", "weight"}


def test_the_paper_s_config_is_the_seed_s_recipe(tmp_path):
    variant = "paper,data=wikitext,model=attn_attn,layers=4"
    config, task = make(variant, tmp_path, data__path=str(WIKITEXT), data__tokenizer="bytes")
    assert (config.model.width, config.model.heads, config.model.depth) == (512, 8, 4)
    assert (config.train.batch_size, config.data.context, config.seed) == (32, 256, 42)
    assert (config.optim.learning_rate, config.optim.clip_norm) == (3e-4, 1.0)
    assert task.model.dtype == jnp.bfloat16


def predictions(task, params, batch):
    """Losses, and whether the right token comes first, of all predictions in float64."""
    logits = np.asarray(jax.jit(task.logits)(params, batch["tokens"][:, :-1]), np.float64)
    logits -= logits.max(-1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = batch["tokens"][:, 1:]
    losses = -np.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    right = log_p.argmax(-1) == targets
    return losses, right


def test_loss_and_scores_are_means_over_scored_tokens(tmp_path):
    config, task = make("recall", tmp_path, **{k.replace(".", "__"): v for k, v in SMALL.items()})
    params = jax.jit(task.init)(jax.random.key(0))
    batch = gather(task.train_source, np.arange(4))
    losses, right = predictions(task, params, batch)
    loss, metrics = jax.jit(task.loss)(params, batch, jax.random.key(0))
    assert loss == pytest.approx(losses[batch["scored"]].mean(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(right[batch["scored"]].mean())
    scores = evaluate(task, params, task.eval_sources["test"], 3)
    assert scores["tokens"] == 8 * task.train_source.task.asked
    batch = gather(task.eval_sources["test"], np.arange(8))
    losses, right = predictions(task, params, batch)
    assert scores["loss"] == pytest.approx(losses[batch["scored"]].mean(), rel=1e-5)
    assert scores["accuracy"] == pytest.approx(right[batch["scored"]].mean())
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))


def test_perplexities_of_a_text_are_taken_over_its_words_and_bytes(tmp_path):
    config, task = make(
        "smoke,data=wikitext", tmp_path, data__path=str(WIKITEXT), data__tokenizer="bytes"
    )
    params = jax.jit(task.init)(jax.random.key(0))
    scores = evaluate(task, params, task.eval_sources["test"], 16)
    text = (WIKITEXT / "wiki.test.raw").read_text(encoding="utf-8")
    assert scores["bytes"] == len(text.encode())
    assert scores["words"] == len(text.split())
    assert scores["tokens"] == scores["bytes"] - 1
    nats = scores["loss"] * scores["tokens"]
    assert scores["bits_per_byte"] == pytest.approx(nats / scores["bytes"] / math.log(2))
    assert scores["word_perplexity"] == pytest.approx(math.exp(nats / scores["words"]))
    assert (scores["context"], scores["stride"]) == (32, 16)
    assert 7.5 < scores["bits_per_byte"] < 8.5, "an untrained model of bytes knows nothing"


def test_a_run_trains_and_makes_its_page(tmp_path, capsys):
    arguments = [f"--config={DEFAULT_CONFIG}:smoke,data=made_up", f"--workdir={tmp_path / 'run'}"]
    arguments += [f"--config.data.cache={tmp_path / 'cache'}", "--config.train.steps=6"]
    arguments += ["--config.model.width=8"]
    assert main(arguments) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["test"]["context"] == 32
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    for words in ("bits a byte", "So it sees nothing of the future", "continuation", "Offset +1"):
        assert words in page
    assert (tmp_path / "run" / "report" / "kernel_1.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([":model=conv_atn"], "model is 'conv_atn'; the nearest is conv_attn"),
        ([":model=leaky,layers=2"], "leaky has one attention layer"),
        ([":data=text"], "data.path is empty; kind 'text' needs --config.data.path=PATH"),
        ([":paper"], "size=paper is for data=wikitext or text"),
        (["", "--config.model.taps=0"], "model.taps is 0; expected 1 or more"),
        (["", "--config.data.kind=numbers"], "data.kind is 'numbers'; choose one of"),
        (["", "--config.model.positions=sine"], "model.positions is 'sine'; choose one of"),
        ([":made_up", "--config.data.tokenizer=words"], "tokenizer is 'words'; choose"),
        ([":wikitext", "--config.data.path=nowhere"], "nowhere/wiki.train.raw: does not exist"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, tmp_path, capsys):
    first, *others = arguments
    command = [f"--config={DEFAULT_CONFIG}{first}", f"--workdir={tmp_path / 'run'}", *others]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_a_leak_shows_when_only_the_prefix_is_given(tmp_path):
    """The symmetric convolution learns to read the answer, and loses it without the future."""
    fields = {k.replace(".", "__"): v for k, v in SMALL.items()} | {"data__vocabulary": 8}
    fields |= {"data__half_length": 6, "data__shortest": 4, "train__steps": 80}
    fields |= {"optim__warmup_steps": 5, "train__batch_size": 32, "data__train_count": 512}
    fields["model__width"] = 32
    gaps = {}
    for model in ("leaky", "conv_attn"):
        config, task = make(f"model={model}", tmp_path, **fields)
        fit(task, config, tmp_path / model, progress=NoProgress())
        _, params = restore_params(task, config, tmp_path / model)
        found = look.answers(task, params, task.eval_sources["test"], 8)
        gaps[model] = look.leak(task, params, found, [7, 9])
    assert gaps["leaky"].alone > gaps["leaky"].whole + 0.3
    assert gaps["leaky"].difference > 0.5
    assert gaps["conv_attn"].alone == pytest.approx(gaps["conv_attn"].whole, abs=1e-4)
    assert gaps["conv_attn"].difference < 1e-4


def test_members_differ_in_folder_and_are_whole():
    chosen = members((0, 1), {"data.kind": "made_up"}, {"train.steps": 2})
    assert len({member.folder for member in chosen}) == len(chosen)
    assert {member.part for member in chosen} == {"sequences", "text", "large", "taps"}
    for member in chosen[::17]:
        config = member.config()
        assert (config.seed, config.data.seed, config.train.steps) == (member.seed,) * 2 + (2,)


def test_the_page_is_made_of_the_runs_that_there_are(tmp_path):
    quick = {"train.steps": 2, "optim.warmup_steps": 1, "model.width": 8, "train.batch_size": 4}
    quick |= {f"train.{name}_every": 2 for name in ("log", "eval", "checkpoint")}
    few = {"data.train_count": 8, "data.validation_count": 4, "data.test_count": 4}
    chosen = [
        Member("sequences", "repeats", "causal conv + 1 layer", seed, "model=conv_attn",
               quick | few, CONFIG)
        for seed in (0, 1)
    ]  # fmt: skip
    first = train_one(chosen[0], tmp_path, make_task)
    assert first == train_one(chosen[0], tmp_path, make_task), "kept when done"
    train_one(chosen[1], tmp_path, make_task)
    page = write_page(chosen, tmp_path).read_text()
    assert "Made-up sequences" in page and "where the heads look" in page
    assert "no runs on text" in page
    accuracies = [
        json.loads((tmp_path / member.folder / "result.json").read_text())["test"]["accuracy"]
        for member in chosen
    ]
    assert spread(accuracies) in page
    with pytest.raises(UserError, match="holds no finished run"):
        write_page(chosen, tmp_path / "elsewhere")


def test_spread_is_mean_and_sample_deviation():
    assert spread([1.0, 2.0, 4.5]) == "2.500 ± 1.803"
    assert spread([0.25], 2) == "0.25"
    assert spread([]) == "-"
