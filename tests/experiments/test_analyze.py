"""A model taken apart: command line, subject, causes and contours."""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.extend.core import Literal
from ml_collections import ConfigDict

from common.analysis import Page
from common.checkpoints import load_checkpoint, save_checkpoint
from common.errors import UserError
from cssm import SimpleCSSM
from experiments.analyses import causes, contours, cost, open_subject, recurrence
from experiments.analyses.page import SECTIONS, add_summary
from experiments.analyze import main
from experiments.models.vision import make_model

SHIPPED = Path(__file__).parents[2] / "colab" / "checkpoints" / "pathfinder_64.pkl"
MODEL = {"embed_dim": 4, "kernel_size": 3, "seq_len": 3, "pos_embed": "none"}
DATA = {"image_size": 32, "contour_length": 3, "window": 52.0, "padding": 5.0}
DATA |= {"distractors": 1, "seed_distance": 12.0, "seed": 5}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A small model of random weights, with the config of its run."""
    model = SimpleCSSM(**MODEL)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: 0.4 * rng.standard_normal(s.shape).astype(np.float32), shapes)
    config = {"model": {"name": "simple_cssm", **MODEL}, "data": DATA}
    path = tmp_path_factory.mktemp("model") / "tiny.pkl"
    save_checkpoint(path, {"params": params, "step": 7, "config": config}, "pickle")
    return path


@pytest.fixture(scope="module")
def subject(checkpoint):
    return open_subject(checkpoint, count=24)


def test_the_subject_is_the_checkpoint_and_its_run_s_images(subject):
    assert subject.step == 7
    assert subject.spectral_blocks == ["cssm_0"]
    assert subject.settings.contour_length == 3
    np.testing.assert_array_equal(subject.labels, np.tile([1, 0], 12))
    logits = jax.jit(subject.apply)(subject.params, subject.frames(slice(0, 3)))
    expected = jax.nn.softmax(logits)[:, 1]
    np.testing.assert_allclose(subject.probability(subject.images[:3]), expected, rtol=1e-4)


def test_of_a_finished_run_the_best_step_is_taken_apart(checkpoint, tmp_path):
    content, run = load_checkpoint(checkpoint), tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for step in (5, 9):
        params = jax.tree.map(lambda x, step=step: x + 0.01 * step, content["params"])
        saved = content | {"params": params, "step": step}
        save_checkpoint(run / "checkpoints" / str(step), saved, "orbax")

    def looked_at() -> str:
        subject = open_subject(run, count=8)
        first, mine = jax.tree.leaves(content["params"])[0], jax.tree.leaves(subject.params)[0]
        np.testing.assert_allclose(mine, first + 0.01 * subject.step, rtol=1e-5)
        page = Page("")
        add_summary(page, subject)
        text = re.sub(r"<[^>]+>", " ", page.write(tmp_path / "page.html").read_text())
        return " ".join(re.findall(r"training step([^\n]*)", text)[0].split())

    assert looked_at().startswith("9")
    (run / "result.json").write_text('{"step": 9, "best_step": 5}')
    assert looked_at().startswith("5, the best of the run, whose scores result.json has")


def test_an_intervention_that_changes_nothing_scores_the_same(subject):
    """The whole band; all but one frame of a film whose first alone counts, held to its value."""
    from cssm import interventions

    whole = causes.whole_score(subject)
    bands = [(np.float32(0), np.float32(1)), (np.float32(0.9), np.float32(1))]
    same, silent = causes.score_under(subject, interventions.keep_frequencies, bands)
    assert same == whole
    assert 0 <= silent.value <= 1


def test_the_last_answer_over_time_is_the_answer(subject):
    found = causes.answers_by_step(subject)
    assert found.shape == (24, 3)
    np.testing.assert_allclose(found[:, -1], subject.run.predictions.probability, atol=1e-5)


def test_cuts_take_paddles_of_the_right_contour(subject):
    own, other = (contours.cut_image(subject, 0, [i]) for i in (1, 4))
    points = contours.contour_points(subject, 0)
    assert points.shape == (2, 3, 2)
    for cut, contour in ((own, 0), (other, 1)):
        y, x = (points[contour, 1] * 32).astype(int)
        missing = subject.images[0].astype(int) - cut
        assert missing[y, x] > 100
        place = np.argwhere(missing > 0) - [y, x]
        assert np.abs(place).max() <= 3
    found = contours.cut_contours(subject)
    assert (len(found.own), len(found.other), len(found.own_gap)) == (3, 3, 1)
    assert found.own_gap[0] == found.own[1]
    assert [contours.middle_paddles(5, width) for width in (1, 2, 3)] == [[2], [1, 2], [1, 2, 3]]


def test_pairs_differ_first_where_the_second_disc_is(subject):
    along, everywhere = contours.pair_traces(subject, "cssm_0")
    assert along.shape == (3, 2, 3, 3) and everywhere.shape == (3, 3)
    first = along[0, :, 0]
    assert (first[:, -1] > 2 * first[:, 0]).all()
    assert (everywhere > 0).all()


def test_gates_read_two_ways(subject):
    reading = recurrence.read_gates(subject, "cssm_0")["decay_Q"]
    assert 0.1 < reading.low <= reading.mean <= reading.high < 0.99
    expected = 0.1 + 0.89 * reading.as_in_the_notebooks
    assert reading.of_mean_parameters == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("steps", "depth"), [(1, 0), (2, 1), (4, 3), (8, 5), (64, 11)])
def test_the_depth_of_the_tree_is_that_of_jax(steps, depth):
    """Counted in the program: combinations of which each needs the one before."""
    assert cost.scan_depth(steps, "associative") == depth
    assert cost.scan_depth(steps, "sequential") == steps

    def longest(jaxpr) -> int:
        far: dict[Any, int] = {}
        for equation in jaxpr.eqns:
            variables = [v for v in equation.invars if not isinstance(v, Literal)]
            before = max([0, *(far.get(v, 0) for v in variables)])
            before += equation.primitive.name == "mul" and equation.outvars[0].aval.size > 0
            far.update(dict.fromkeys(equation.outvars, before))
        return max(far.get(v, 0) for v in jaxpr.outvars)

    scan = jax.make_jaxpr(lambda x: jax.lax.associative_scan(jax.lax.mul, x))(np.ones(steps))
    assert longest(scan.jaxpr) == depth


def test_both_scans_give_the_same_and_cost_differently():
    sequential, associative = cost.scan_costs((4,), repeats=1)
    assert associative.difference < 1e-5
    assert associative.mflops > 2 * sequential.mflops
    assert associative.temporary_mb > sequential.temporary_mb
    assert cost.draw_scan_costs([sequential, associative]).axes[0].lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: --checkpoint, --out"),
        (["--checkpoint=none.pkl", "--out=OUT"], "none.pkl"),
        (["--checkpoint=none.pkl", "--out=OUT", "--images=7"], "must be even, and 8 or more"),
        (["--checkpoint=none.pkl", "--out=OUT", "--image=8"], "unrecognized arguments: --image=8"),
        (["--checkpoint=none.pkl", "--out=OUT", "--model.act"], "expected --model.KEY=VALUE"),
        (["--checkpoint=SHIPPED", "--out=OUT", "--model.magic=3"], "magic"),
        (["--checkpoint=SHIPPED", "--out=OUT", "--data=none"], "none: does not exist"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, tmp_path, capsys):
    places = {"OUT": str(tmp_path / "out"), "SHIPPED": str(SHIPPED)}
    for word, place in places.items():
        arguments = [argument.replace(word, place) for argument in arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("error: ")


def test_foreign_images_are_read_and_their_geometry_is_not_known(checkpoint, subject, tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, pos=subject.images[::2], neg=subject.images[1::2])
    found = open_subject(checkpoint, path, 16)
    np.testing.assert_array_equal(found.images, subject.images[:16])
    assert found.scenes is None
    with pytest.raises(UserError, match="geometry of these images is not known"):
        found.scene(0)


@pytest.mark.slow
def test_a_model_without_steps_gets_what_it_has(tmp_path):
    fields = {"name": "conv_net", "widths": (4, 6), "dtype": "float32"}
    model: Any = make_model(ConfigDict(fields))
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]
    content = {"params": jax.tree.map(np.asarray, params)}
    content["config"] = {"model": fields | {"widths": [4, 6]}, "data": DATA}
    save_checkpoint(tmp_path / "x.pkl", content, "pickle")
    assert main([f"--checkpoint={tmp_path / 'x.pkl'}", f"--out={tmp_path}", "--images=16"]) == 0
    drawn = {file.stem for file in tmp_path.glob("*.png")}
    assert {"integrated_gradients", "cuts", "attribution_maps"} <= drawn
    assert not drawn & {"knockouts", "bands", "receptive_field", "scan_cost", "answers_over_time"}


@pytest.mark.slow
def test_the_whole_page_of_the_shipped_checkpoint(tmp_path, capsys):
    """About three minutes; every section, each figure with a paragraph before it."""
    assert main([f"--checkpoint={SHIPPED}", f"--out={tmp_path}", "--images=64"]) == 0
    said = capsys.readouterr()
    assert f"page: {tmp_path / 'analysis.html'}" in said.out
    assert f"{len(SECTIONS)}/{len(SECTIONS)}" in said.err
    page = (tmp_path / "analysis.html").read_text(encoding="utf-8")
    pictures = list(tmp_path.glob("*.png")) + list(tmp_path.glob("*.gif"))
    assert page.count("<img") == len(pictures) >= 22
    text = re.sub(r"base64,[^\"]*|<[^>]+>", " ", page.partition("</style>")[2])
    assert not re.search(r"\bnan\b|\binf\b", text)


def test_examples_are_of_both_kinds_and_right_where_they_can_be(subject):
    numbers, right = subject.examples(3), subject.run.predictions.correct
    np.testing.assert_array_equal(subject.labels[numbers], [1, 1, 1, 0, 0, 0])
    for label in (1, 0):
        chosen = numbers[subject.labels[numbers] == label]
        count = min(3, int(right[subject.labels == label].sum()))
        assert right[chosen].tolist() == [True] * count + [False] * (3 - count)
