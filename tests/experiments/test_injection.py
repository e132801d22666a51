"""The injection experiment: no leaks, equal sizes, scores by type; runs, resumption, pages."""

import json
import re

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
    SceneSettings,
    SortOfClevr,
    decode,
    measure_floors,
)
from common.injection import GatedMLP, MultiHeadAttention
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
from experiments.injection_mechanisms import Pooled
from experiments.injection_models import PlacesBlock, make_injection_model, pack
from experiments.reports.injection_comparison import add_layers, write_page
from experiments.tasks.injection import GROUPS, make_task, things_at_places

TINY = {"model.depth": 1, "model.layers": (0,), "train.steps": 4, "optim.warmup_steps": 1}
TINY |= {"data.image_size": 29}
TINY |= {f"train.{name}_every": 2 for name in ("log", "eval", "checkpoint")}
TINY |= {"data.validation_count": 6, "data.test_count": 6, "train.eval_batch_size": 4}


def make(variant, **fields):
    config = load_config(f"{DEFAULT_CONFIG}:{variant}", fields)
    return config, make_task(config)


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
    config, task = make(mechanism)
    params = jax.eval_shape(task.init, jax.random.key(0))
    assert parameter_count(params) == pytest.approx(SIZE, rel=0.01)
    batch = gather(task.train_source, np.arange(2))
    loss, metrics = jax.eval_shape(task.loss, params, batch, jax.random.key(0))
    assert loss.shape == metrics["accuracy"].shape == ()
    scores = jax.eval_shape(task.score, params, batch)
    assert set(scores) == {"loss", "accuracy", *GROUPS, *TYPES}


SIZE = 348_000


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
        lambda images, questions: (
            task.model.apply(
                {"params": params}, images, questions, rngs={"slots": jax.random.key(0)}
            ).logits
        )
    )
    images, questions = task.inputs(batch)
    whole = ask(images, questions)
    assert whole.shape == (task.model.members, 2, 6, 30)
    for number in (0, 4):
        alone = ask(images, questions[:, number : number + 1])
        np.testing.assert_allclose(whole[:, :, number], alone[:, :, 0], rtol=2e-4, atol=2e-4)
    other = ask(images[::-1], questions)
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
    ask = jax.jit(lambda images: task.answer(params, {**batch, "image": images}).logits)
    np.testing.assert_array_equal(ask(batch["image"]), ask(batch["image"][::-1]))


def test_controls_are_not_shown_image_or_question():
    _, seeing = make("cross,smoke", **small("cross"))
    params, batch = drawn(seeing), gather(seeing.eval_sources["test"], np.arange(2))
    swapped = {**batch, "image": batch["image"][::-1]}
    others = {**batch, "tokens": batch["tokens"][:, ::-1]}
    for blank, changed in (("image", swapped), ("question", others)):
        _, task = make(f"cross,smoke,blank={blank}", **small("cross"))
        ask = jax.jit(lambda b, task=task: task.answer(params, b).logits)
        np.testing.assert_array_equal(ask(batch), ask(changed))
    ask = jax.jit(lambda b: seeing.answer(params, b).logits)
    assert not np.allclose(ask(batch), ask(swapped))
    assert not np.allclose(ask(batch), ask(others))


def test_answers_depend_on_every_word():
    """So they are those of the last token of each question."""
    _, task = make("film,smoke", **small("film"))
    params, batch = drawn(task), gather(task.eval_sources["test"], np.arange(2))
    ask = jax.jit(lambda tokens: task.answer(params, {**batch, "tokens": tokens}).logits)
    answers = ask(batch["tokens"])
    for word in range(3):
        changed = batch["tokens"].copy()
        changed[:, :, word] = np.roll(changed[:, :, word], 1, axis=1)
        differs = (changed != batch["tokens"]).any((0, 2))
        assert differs.any()
        assert np.abs(ask(changed) - answers)[:, :, differs].max(-1).max(1).min() > 1e-3, word


def test_places_of_the_encoder_know_where_they_are():
    config, _ = make("cross,smoke")
    encoder = make_injection_model(config.model, 41).encoder
    picture = np.full((1, 41, 41, 3), 255, np.uint8)
    places = jax.jit(lambda key, x: encoder.init_with_output(key, x)[0])(jax.random.key(0), picture)
    places = places.features
    apart = np.linalg.norm(places[0][:, None] - places[0][None], axis=-1)
    assert apart.shape == (36, 36)
    assert apart[~np.eye(36, dtype=bool)].min() > 0.1


def test_a_picture_is_seen_as_it_is_alone():
    """What else is in the batch does not count: norms are of a picture's own places."""
    config, task = make("cross,smoke")
    encoder = make_injection_model(config.model, 41).encoder
    pictures = gather(task.train_source, np.arange(2))["image"]
    see = jax.jit(encoder.init_with_output)
    together, alone = (see(jax.random.key(0), x)[0] for x in (pictures, pictures[:1]))
    for many, one in zip(together, alone, strict=True):
        np.testing.assert_allclose(many[:1], one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("size", "radius", "side"), [(75, 5, 10), (41, 2, 6)])
def test_objects_stand_at_the_places_within_their_squares(size, radius, side):
    settings = SceneSettings(size, radius)
    batch = gather(SortOfClevr(settings, 20), np.arange(20))
    found = np.asarray(things_at_places(batch, side, settings)).reshape(20, side, side)
    middles = (np.arange(side) + 0.5) * size / side
    for picture, centres, shapes in zip(found, batch["centres"], batch["shapes"], strict=True):
        expected = np.zeros((side, side), int)
        for number, ((y, x), shape) in enumerate(zip(centres, shapes, strict=True)):
            rows, columns = np.abs(middles - y), np.abs(middles - x)
            reach = max(radius, rows.min(), columns.min())
            there = (rows[:, None] <= reach) & (columns <= reach)
            expected[there] = np.maximum(expected[there], 1 + 2 * number + shape)
        np.testing.assert_array_equal(picture, expected)
        if 2 * radius > size / side:  # no place has two
            assert set(picture.ravel()) == {0, *(1 + 2 * np.arange(6) + shapes)}


def test_naming_is_a_part_of_the_objective():
    """Objects weigh as much as all that is empty."""
    parts = {}
    for weight in (0.0, 0.5):
        _, task = make("film,smoke", **{"optim.naming_weight": weight}, **small("film"))
        params, batch = drawn(task), gather(task.train_source, np.arange(3))
        parts[weight], metrics = jax.jit(task.loss)(params, batch, jax.random.key(0))
    names = np.asarray(jax.jit(task.answer)(params, batch).names, np.float64)
    things = np.asarray(things_at_places(batch, task.model.side, task.train_source.settings))
    p = np.exp(names) / np.exp(names).sum(-1, keepdims=True)
    missed = -np.log(np.take_along_axis(p, things[..., None], -1)[..., 0])
    expected = missed[things > 0].mean() + missed[things == 0].mean()
    assert float(parts[0.5] - parts[0.0]) == pytest.approx(expected / 2, rel=1e-3)
    right = (names.argmax(-1) == things)[things > 0].mean()
    assert metrics["named"] == pytest.approx(right)


def test_places_see_each_other():
    block = PlacesBlock(MultiHeadAttention(2, 4), GatedMLP(8))
    x = np.random.default_rng(0).standard_normal((1, 5, 8)).astype(np.float32)
    other = x.copy()
    other[:, 0, ::2] += 1
    ask = jax.jit(lambda x: block.init_with_output(jax.random.key(0), x)[0])
    changes = np.abs(ask(x) - ask(other)).max(-1)
    assert changes.min() > 1e-3


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
        _, task = make("film,smoke", **{"data.seed": seed})
        for source in (task.train_source, *task.eval_sources.values()):
            seen += [image.tobytes() for image in gather(source, np.arange(20))["image"]]
    assert len(seen) == len(set(seen)) == 120


def test_relational_questions_enter_the_objective_late():
    _, task = make(
        "film,smoke", **{"optim.relational_from": 4, "optim.naming_weight": 0.0}, **small("film")
    )
    params, batch = drawn(task), gather(task.train_source, np.arange(3))
    answer, loss_at = jax.jit(task.answer), jax.jit(task.loss_at)
    log_p = np.asarray(jax.nn.log_softmax(answer(params, batch, jax.random.key(0)).logits))[0]
    losses = -np.take_along_axis(log_p, batch["tokens"][..., -1:], -1)[..., 0].mean(0)
    alone, whole = losses[:3].mean(), losses.mean()
    half = (losses[:3].sum() + losses[3:].sum() / 2) / 4.5
    for step, expected in ((0, alone), (4, alone), (6, half), (8, whole), (90, whole)):
        found, _ = loss_at(params, batch, jax.random.key(0), jnp.asarray(step))
        assert found == pytest.approx(expected, rel=1e-4), step
    assert jax.jit(task.loss)(params, batch, jax.random.key(0))[0] == pytest.approx(whole, rel=1e-4)


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
    logits = np.asarray(jax.jit(task.answer)(params, batch).logits, np.float64)
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
    arguments += [f"--config.{key}={value}" for key, value in TINY.items()]
    assert main(arguments) == 0
    result = json.loads((run / "result.json").read_text())
    page = (run / "report" / "report.html").read_text()
    for words in ("shapes without places", "tanh of every gate", "layer 0"):
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
        (["", "--config.model.channels=(8,)"], "model.channels is (8,); expected 3 numbers"),
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
    page = write_page(chosen, tmp_path).read_text()
    for words in ("0.125", "0.625", "Scaling or shifting?", "counted: shapes without places"):
        assert words in page
    floors = measure_floors(make_task(chosen[1].config()).eval_sources["test"])
    assert f"{floors.majority['number']:.3f}" in page


@pytest.mark.slow
def test_a_member_trains_and_is_read_back(tmp_path):
    member = Member("mechanisms", TASK, "FiLM", 0, "film,smoke", TINY, CONFIG)
    accuracy, _ = train_one(member, tmp_path, make_task)
    (found,) = results.read_results([member], tmp_path)
    assert found.scores["accuracy"] == accuracy
    assert spread([accuracy]) == f"{accuracy:.3f}"
