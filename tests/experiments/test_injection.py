"""The injection experiment: no leaks, equal sizes, scores by type; runs, resumption, pages."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from common.analysis import Page
from common.data.pipeline import gather
from common.data.sort_of_clevr import (
    TYPES,
    decode,
    measure_floors,
)
from common.errors import UserError
from common.train import evaluate, parameter_count
from experiments.analyses import injection as look
from experiments.cli import load_config
from experiments.comparisons import results
from experiments.comparisons.injection import CONFIG, MECHANISMS, TASK, members
from experiments.comparisons.members import Member
from experiments.comparisons.results import Result, spread
from experiments.comparisons.running import read_seeds, shorter, train_one
from experiments.configs import injection as configs
from experiments.injection import DEFAULT_CONFIG, main
from experiments.injection import make_task as trained_task
from experiments.models.injection import pack
from experiments.models.mechanisms import Pooled
from experiments.reports import injection_comparison as page_maker
from experiments.reports.injection_comparison import add_layers, write_page
from experiments.tasks import scene_encoder
from experiments.tasks.injection import GROUPS, make_task
from tests.experiments.seeing import seeing

TINY = {"model.depth": 1, "model.layers": (0,), "train.steps": 4, "optim.warmup_steps": 1}
TINY |= {"data.image_size": 29}
TINY |= {f"train.{name}_every": 2 for name in ("log", "eval", "checkpoint")}
TINY |= {f"encoder.{name}": TINY[name] for name in TINY if name[:5] in ("train", "optim")}
TINY |= {"encoder.data.validation_count": 6, "data.train_count": 40}
TINY |= {"data.validation_count": 6, "data.test_count": 6, "train.eval_batch_size": 4}


def make(variant, **fields):
    config = load_config(f"{DEFAULT_CONFIG}:{variant}", fields)
    return config, make_task(config, seeing(config))


def small(mechanism):
    """Fields of a model of few layers."""
    if mechanism == "mllama":
        return {"model.depth": 2, "model.layers": (1,)}
    return {"model.depth": 1, "model.layers": (0,)}


def drawn(task, seed=0):
    """Parameters with nothing at rest, gates included."""
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        width = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 1
        noise = rng.standard_normal(leaf.shape) * (width**-0.5 if width > 1 else 0.5)
        return jnp.asarray(noise + (path[-1].key == "scale"), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("mechanism", configs.MECHANISMS)
def test_every_mechanism_has_a_loss_and_about_as_many_parameters(mechanism):
    """Shapes alone, nothing is computed."""
    few = {f"data.{split}_count": 2 for split in ("train", "validation", "test")}
    _, task = make(mechanism, **few)
    params = jax.eval_shape(task.init, jax.random.key(0))
    assert parameter_count(params) == pytest.approx(SIZE, rel=0.01)
    batch = gather(task.train_source, np.arange(2))
    loss, metrics = jax.eval_shape(task.loss, params, batch, jax.random.key(0))
    assert loss.shape == metrics["accuracy"].shape == ()
    scores = jax.eval_shape(task.score, params, batch)
    assert set(scores) == {"loss", "accuracy", *GROUPS, *TYPES}


SIZE = 260_000


def slow(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


QUICK = ("cross", "projection", "disentangled")
REST = tuple(name for name in configs.MECHANISMS if name not in QUICK)


@pytest.mark.parametrize("mechanism", [*QUICK, *slow(*REST)])
def test_questions_in_one_row_do_not_see_each_other(mechanism):
    """The same answers as of every question asked alone; and they depend on image and question."""
    _, task = make(f"{mechanism},smoke", **small(mechanism))
    params = drawn(task)
    batch = gather(task.eval_sources["test"], np.arange(2))
    ask = jax.jit(
        lambda features, questions: task.model.apply(
            {"params": params}, features, questions, rngs={"slots": jax.random.key(0)}
        )
    )
    features, questions = task.inputs(batch)
    whole = ask(features, questions)
    assert whole.shape == (task.model.members, 2, 6, 30)
    for number in (0, 4):
        alone = ask(features, questions[:, number : number + 1])
        np.testing.assert_allclose(whole[:, :, number], alone[:, :, 0], rtol=2e-4, atol=2e-4)
    other = ask(features[::-1], questions)
    assert float(jnp.abs(other - whole).max()) > 4e-3, "the image is seen"


@pytest.mark.parametrize("mechanism", ["cross", *slow(*(set(configs.MECHANISMS) - {"cross"}))])
def test_gradients_reach_every_parameter(mechanism):
    _, task = make(f"{mechanism},smoke", **small(mechanism))
    params = drawn(task)
    batch = gather(task.train_source, np.arange(8))
    grads = jax.jit(jax.grad(lambda p: task.loss(p, batch, jax.random.key(0))[0]))(params)
    for path, leaf in flatten_dict(grads, sep="/").items():
        assert np.isfinite(leaf).all(), path
        if "k_norm" not in path:
            assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize(
    "mechanism", ["film", *slow("cross", "flamingo", "mllama", "disentangled", "pathways")]
)
def test_gated_mechanisms_begin_as_the_decoder_alone(mechanism):
    """At the start nothing of the image is in the answers of what has gates or FiLM."""
    _, task = make(f"{mechanism},smoke", **small(mechanism))
    params = jax.jit(task.init)(jax.random.key(0))
    batch = gather(task.eval_sources["test"], np.arange(2))
    ask = jax.jit(lambda features: task.answer(params, {**batch, "features": features}))
    np.testing.assert_array_equal(ask(batch["features"]), ask(batch["features"][::-1]))


def test_controls_are_not_shown_image_or_question():
    _, whole = make("cross,smoke", **small("cross"))
    params, batch = drawn(whole), gather(whole.eval_sources["test"], np.arange(2))
    swapped = {**batch, "features": batch["features"][::-1]}
    others = {**batch, "tokens": batch["tokens"][:, ::-1]}
    for blank, changed in (("image", swapped), ("question", others)):
        _, task = make(f"cross,smoke,blank={blank}", **small("cross"))
        ask = jax.jit(lambda b, task=task: task.answer(params, b))
        np.testing.assert_array_equal(ask(batch), ask(changed))
    ask = jax.jit(lambda b: whole.answer(params, b))
    assert not np.allclose(ask(batch), ask(swapped))
    assert not np.allclose(ask(batch), ask(others))


def test_answers_depend_on_every_word():
    """So they are those of the last token of each question."""
    _, task = make("film,smoke", **small("film"))
    params, batch = drawn(task), gather(task.eval_sources["test"], np.arange(2))
    ask = jax.jit(lambda tokens: task.answer(params, {**batch, "tokens": tokens}))
    answers = ask(batch["tokens"])
    for word in range(3):
        changed = batch["tokens"].copy()
        changed[:, :, word] = np.roll(changed[:, :, word], 1, axis=1)
        differs = (changed != batch["tokens"]).any((0, 2))
        assert differs.any()
        assert np.abs(ask(changed) - answers)[:, :, differs].max(-1).max(1).min() > 1e-3, word


class Plus(nn.Module):
    """Adds a vector to a sequence."""

    def __call__(self, x, vector):
        return x + vector[:, None]


def test_pooled_modules_are_given_the_mean_of_the_features():
    rng = np.random.default_rng(0)
    x, features = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 4), (2, 5, 4))
    )
    expected = x + features.mean(1, keepdims=True)
    np.testing.assert_allclose(Pooled(Plus()).apply({}, x, features), expected, rtol=1e-5)


def test_gates_learn_faster_and_nothing_else_does():
    config, task = make("cross,smoke", **small("cross"))
    scales = flatten_dict(task.learning_rate_scales(drawn(task)), sep="/")
    fast = {path for path, scale in scales.items() if scale != 1}
    assert {path.rpartition("/")[2] for path in fast} == {"attention_gate", "mlp_gate"}
    assert len(fast) == 2
    assert {scales[path] for path in fast} == {config.optim.gate_scale}


def test_splits_and_seeds_have_pictures_of_their_own():
    seen = []
    for seed in (0, 1):
        config, task = make("film,smoke", **{"data.seed": seed})
        for source in (task.train_source, *task.eval_sources.values()):
            images = gather(source.pictures, np.arange(20))["image"]
            seen += [image.tobytes() for image in images]
        encoder = scene_encoder.make_task(scene_encoder.encoder_run(config)[0])
        for source in (encoder.train_source, *encoder.eval_sources.values()):
            seen += [image.tobytes() for image in gather(source, np.arange(20))["image"]]
    assert len(seen) == len(set(seen)) == 200


def test_places_and_mask_of_packed_questions():
    text = pack(jnp.arange(12).reshape(1, 2, 6)[:, :, :3], 2)
    assert text.tokens[0].tolist() == [0, 0, 0, 1, 2, 6, 7, 8]
    assert text.places[0].tolist() == [0, 1, 2, 3, 4, 2, 3, 4]
    owners = [0, 0, 1, 1, 1, 2, 2, 2]
    expected = [[b in (0, a) for b in owners] for a in owners]
    np.testing.assert_array_equal(text.mask[0], expected)


@pytest.mark.parametrize("mechanism", configs.IN_TEXT)
def test_every_image_token_is_replaced_and_no_word(mechanism):
    _, task = make(f"{mechanism},smoke")
    text = pack(jnp.zeros((1, 2, 3), jnp.int32), task.model.image_tokens)
    _, replaced = task.model.context(None, text)
    assert replaced[0].tolist() == [True] * task.model.image_tokens + [False] * 6


def test_scores_are_means_by_type_with_intervals():
    config, task = make("film_ensemble,smoke", **{"data.test_count": 20}, **small("film"))
    params = drawn(task)
    source = task.eval_sources["test"]
    scores = evaluate(task, params, source, 8)
    batch = gather(source, np.arange(20))
    logits = np.asarray(jax.jit(task.answer)(params, batch), np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p = (p / p.sum(-1, keepdims=True)).mean(0)
    answers = batch["tokens"][..., -1]
    right = p.argmax(-1) == answers
    losses = -np.log(np.take_along_axis(p, answers[..., None], -1))
    assert scores["loss"] == pytest.approx(losses.mean(), rel=1e-4)
    assert scores["accuracy"] == pytest.approx(right.mean())
    plain = ("shape", "side", "level")
    for group, names in (("non_relational", plain), ("relational", set(TYPES) - set(plain))):
        asked = [decode(row).split()[0] in names for row in batch["tokens"][0]]
        assert scores[group] == pytest.approx(right[:, asked].mean())
        assert scores[f"{group}_low"] <= scores[group] <= scores[f"{group}_high"]
    for number, name in enumerate(TYPES):
        assert scores[name] == pytest.approx(right[:, number].mean())
        assert scores[f"{name}_low"] <= scores[name] <= scores[f"{name}_high"]


def test_modulation_is_measured_as_by_hand():
    _, task = make("film,smoke", **small("film"))
    params, batch = drawn(task), gather(task.eval_sources["test"], np.arange(3))
    named = look.intermediates(task, params, batch)
    (path,) = [p.removesuffix("/gamma") for p in named if p.endswith("/gamma")]
    x, gamma, beta = (np.asarray(named[f"{path}/{n}"]) for n in ("input", "gamma", "beta"))
    found = look.modulations(task, params, batch)["layer 0"]
    for number in range(6):
        answer = 3 * number + 2
        own = x[:, answer]
        size = np.sqrt((own**2).mean())
        assert found.scaling[number] == pytest.approx(
            np.sqrt((((gamma - 1) * own) ** 2).mean()) / size, rel=1e-4
        )
        assert found.shifting[number] == pytest.approx(np.sqrt((beta**2).mean()) / size, rel=1e-4)


@pytest.mark.parametrize(
    ("mechanism", "count"),
    [
        ("cross", 6),
        ("projection", 6),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("disentangled", 6), ("flamingo", 4), ("slots", 4), ("mllama", 6))
        ),
    ],
)
def test_attention_to_the_image_is_a_map_of_places(mechanism, count):
    _, task = make(f"{mechanism},smoke", **small(mechanism))
    batch = gather(task.eval_sources["test"], np.arange(2))
    maps = look.image_attention(task, drawn(task), batch)
    assert maps
    for name, found in maps.items():
        assert found.shape == (2, count, 6, 6), name
        assert (found >= 0).all() and (found.sum((2, 3)) < 1 + 1e-4).all(), name
    if mechanism == "cross":
        np.testing.assert_allclose(maps["layer 0"].sum((2, 3)), 1, rtol=1e-4)


def test_a_run_trains_is_scored_and_makes_its_page(tmp_path, capsys):
    run = tmp_path / "run"
    arguments = [f"--config={DEFAULT_CONFIG}:cross,smoke", f"--workdir={run}"]
    fields = {**TINY, "encoder.folder": tmp_path / "encoders"}
    arguments += [f"--config.{key}={value}" for key, value in fields.items()]
    assert main(arguments) == 0
    (encoder,) = (tmp_path / "encoders").glob("*/result.json")
    assert json.loads(encoder.read_text())["step"] == 4
    result = json.loads((run / "result.json").read_text())
    page = (run / "report" / "report.html").read_text()
    for words in ("shapes without places", "tanh of every gate", "layer 0", "trained before"):
        assert words in page
    assert 0 <= result["test"]["relational"] <= 1
    assert main(["--mode=eval", f"--workdir={run}"]) == 0
    assert f"relational={result['test']['relational']:.6g}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([":mechanism=flamigo"], "mechanism is 'flamigo'; the nearest is flamingo"),
        ([":mllama,late"], "mllama has layers of its own"),
        ([":projection,late"], "projection replaces tokens at one place; layers is 'late'"),
        (["", "--config.model.layers=(4,)"], "model.layers is (4,); expected some of 0 to 3"),
        (["", "--config.model.mechanism=eyes"], "model.mechanism is 'eyes'; choose one of"),
        (["", "--config.encoder.model.channels=(8,)"], "channels is (8,); expected 3 numbers"),
        (["", "--config.encoder.folder=/dev/null/here"], "cannot write /dev/null/here/seed_0"),
        (["", "--config.encoder.model.width=32"], "model.width is 32; expected that of the model"),
        (["", "--config.model.heads=3"], "config.model: width is 64; expected a multiple of 3"),
        (["", "--config.data.blank=both"], "data.blank is 'both'; choose one of nothing, image"),
        (["", "--config.data.radius=9"], "data.image_size is 75; 6 objects of radius 9 want"),
        (["", "--config.optim.gate_scale=0"], "optim.gate_scale is 0.0; expected more than 0"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, tmp_path, capsys):
    first, *others = arguments
    command = [f"--config={DEFAULT_CONFIG}{first}", f"--workdir={tmp_path / 'run'}", *others]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_members_differ_in_folder_and_are_whole():
    chosen = members(read_seeds("0,1"), shorter(2))
    assert len({member.folder for member in chosen}) == len(chosen)
    assert {member.part for member in chosen} == {"mechanisms", "controls", "layers"}
    assert set(MECHANISMS.values()) == set(configs.MECHANISMS)
    assert len({f"{member.config()} {member.seed}" for member in chosen}) == len(chosen)
    for member in chosen:
        config = member.config()
        assert (config.seed, config.data.seed, config.train.steps) == (member.seed,) * 2 + (2,)


def test_a_mechanism_before_its_own_layers_is_the_first_seeds_run():
    names = [*TYPES, *(f"{group}{end}" for group in GROUPS for end in ("", "_low", "_high"))]
    rows = [
        Result(
            Member(part, TASK, model, seed, choices, {}, CONFIG),
            dict.fromkeys(names, 0.1 * seed + 0.25),
            parameters,
            1.0,
            1.0,
            {},
        )
        for part, model, seed, choices, parameters in (
            ("mechanisms", "FiLM", 1, "film", 1_001),
            ("mechanisms", "FiLM", 0, "film", 1_000),
            ("layers", "FiLM early", 0, "film,early", 900),
        )
    ]
    page = Page("layers")
    add_layers(page, rows)
    text = page.html()
    cells = re.findall(r"<td[^>]*>FiLM</td>\s*<td[^>]*>(\w+)</td>\s*<td[^>]*>([\d,]+)</td>", text)
    assert cells == [("early", "900"), ("every", "1,000")]
    assert "0.250" in text and "0.350" not in text


def stand_in(member, out, relational):
    """Writes what a run leaves that tables are made of."""
    folder = out / member.folder
    folder.mkdir(parents=True)
    scores = {name: relational for name in (*GROUPS, *TYPES)}
    scores |= {f"{group}_{end}": relational for group in GROUPS for end in ("low", "high")}
    timing = {"elapsed_seconds": 60.0, "steps_per_second": 4.0}
    result = {"test": scores, "parameters": 1234, "timing": timing}
    (folder / "result.json").write_text(json.dumps(result))
    record = {"step": 2, "split": "train", "layers_0/attention_gate": 0.1, "timing": timing}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "environment.json").write_text(json.dumps({"devices": "stand-in"}))


def test_the_page_is_made_of_the_runs_that_there_are(tmp_path, monkeypatch):
    """Runs are stand-ins with parameters as drawn; how they train is the next test's."""
    chosen = [
        Member(part, TASK, model, 0, f"{choices},smoke", TINY, CONFIG)
        for part, model, choices in (
            ("mechanisms", "FiLM", "film"),
            ("controls", "question alone", "film,blank=image"),
        )
    ]
    for number, member in enumerate(chosen):
        stand_in(member, tmp_path, 0.125 + number / 2)
    monkeypatch.setattr(results, "restore_params", lambda task, *_: (0, drawn(task)))
    monkeypatch.setattr(page_maker, "make_task", lambda c: make_task(c, seeing(c)))
    page = write_page(chosen, tmp_path).read_text()
    for words in ("0.125", "0.625", "Scaling or shifting?", "counted: shapes without places"):
        assert words in page
    floors = measure_floors(make_task(chosen[1].config()).eval_sources["test"].pictures)
    assert f"{floors.majority['number']:.3f}" in page


@pytest.mark.slow
def test_a_member_trains_is_kept_and_read_back(tmp_path):
    fields = {**TINY, "encoder.folder": str(tmp_path / "encoders")}
    member = Member("mechanisms", TASK, "FiLM", 0, "film,smoke", fields, CONFIG)
    out, kept = tmp_path / "out", tmp_path / "kept"
    accuracy, seconds = train_one(member, out, trained_task, kept)
    (found,) = results.read_results([member], out)
    assert found.scores["accuracy"] == accuracy
    assert spread([accuracy]) == f"{accuracy:.3f}"
    shutil.rmtree(out)
    assert results.read_results([member], out, kept) == [found]
    assert train_one(member, out, trained_task, kept) == (accuracy, seconds), "not trained again"
    assert not out.exists()


def test_a_kept_result_is_of_its_config(tmp_path):
    member = Member("mechanisms", TASK, "FiLM", 0, "film,smoke", TINY, CONFIG)
    result = Result(member, {"accuracy": 0.5}, 10, 2.0, 3.0, {"cpu": "stand-in"})
    assert results.read_kept(member, tmp_path) is None
    results.keep_result(result, tmp_path)
    assert results.read_kept(member, tmp_path) == result
    other = dataclasses.replace(member, overrides={**TINY, "train.steps": 6})
    with pytest.raises(UserError, match=r"another config: train\.steps was 4, now 6"):
        results.read_kept(other, tmp_path)
