import dataclasses
import html
import json
import re
from types import SimpleNamespace
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from ml_collections import ConfigDict

from common.analysis import Page
from cssm import SimpleCSSM
from experiments.reports import measurements as measure
from experiments.reports.measurements import Predictions, Score
from experiments.reports.outcome import add_samples
from experiments.reports.pathfinder import write_report
from experiments.reports.run import Run
from experiments.reports.wording import duration, interval, share

EVERYWHERE = {
    "comparison",
    "learning_curves",
    "samples_right",
    "samples_wrong",
    "attribution_maps",
    "accuracy_by_distance",
}
RECURRENT = {"kernels-cssm_0", "gates-cssm_0", "states-cssm_0", "attribution_over_time"}


class TinyCNN(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.relu(nn.Conv(4, (3, 3))(x)).mean((1, 2)))


@dataclasses.dataclass
class Images:
    images: np.ndarray
    labels: np.ndarray
    marker_distances: np.ndarray
    headings: np.ndarray

    def shortcut_features(self):
        z = (self.marker_distances - 60.0) / 10.0
        lit = (self.images > 127).mean((1, 2))
        return {
            "marker distance": np.stack([z, z**2, z**3], -1),
            "lit fraction": lit[:, None],
            "headings at the markers": self.headings,
        }


@dataclasses.dataclass
class Task:
    model: nn.Module
    eval_sources: dict[str, Images]

    def preprocess(self, images, /):
        return jnp.repeat(images[..., None].astype(jnp.float32) / 255, 3, -1)


def make_images(count, seed):
    rng = np.random.default_rng(seed)
    labels = (1 - np.arange(count) % 2).astype(np.uint8)
    distances = 60 + 10 * rng.normal(size=count) * (2 - labels)
    images = rng.integers(0, 256, (count, 16, 16), dtype=np.uint8)
    headings = 0.1 * rng.normal(size=(count, 2)) + 0.1 * labels[:, None]
    return Images(images, labels, distances.astype(np.float32), headings.astype(np.float32))


def make_task(model):
    held_out = {"validation": make_images(20, 1), "test": make_images(30, 2)}
    task = Task(model, held_out)
    x = task.preprocess(held_out["test"].images[:1])
    return task, jax.jit(model.init)(jax.random.key(0), x)["params"]


@pytest.fixture(scope="module")
def recurrent():
    return make_task(SimpleCSSM(embed_dim=4, kernel_size=3, seq_len=3, pos_embed="none"))


@pytest.fixture(scope="module")
def convolutional():
    return make_task(TinyCNN())


@pytest.fixture
def config():
    train = {"steps": 20, "batch_size": 4, "eval_batch_size": 8}
    data = {"image_size": 16, "contour_length": 6}
    return ConfigDict({"seed": 3, "model": {"name": "tiny"}, "data": data, "train": train})


@pytest.fixture
def workdir(tmp_path):
    records = [
        {"step": 10, "split": "train", "loss": 0.7, "accuracy": 0.55, "timing": {}},
        {"step": 20, "split": "validation", "loss": 0.7, "accuracy": 0.65, "accuracy_low": 0.5,
         "accuracy_high": 0.8, "timing": {"elapsed_seconds": 61.0}},
    ]  # fmt: skip
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (tmp_path / "metrics.jsonl").write_text(lines)
    environment = {"cpu": "A chip", "cpu_cores": 2, "packages": {"jax": "0.10"}}
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    return tmp_path


def text_of(path):
    page = re.sub(r"base64,[^\"]*", "", path.read_text(encoding="utf-8"))
    return html.unescape(re.sub(r"<[^>]+>", " ", page)).replace("\N{NO-BREAK SPACE}", " ")


def test_report_of_a_recurrent_model(config, workdir, recurrent):
    task, params = recurrent
    predictions = measure.predict(task, params, task.eval_sources["test"], 8)
    score = Score.of(predictions.correct)
    result = {"best_step": 20, "test": {"accuracy": score.value}}
    (workdir / "result.json").write_text(json.dumps(result))
    path = write_report(config, workdir, task, params)
    assert path == workdir / "report" / "report.html"
    assert {file.stem for file in path.parent.glob("*.png")} == EVERYWHERE | RECURRENT
    text = text_of(path)
    right = int(predictions.correct.sum())
    assert f"right on {right} of 30 test images" in text
    assert f"{share(score.value)} (95 % interval {interval(score)})" in text
    assert "The accuracy is that of the run's own record" in text
    for fact in ("1 min 01 s", "A chip, 2 cores", "20 of 20 steps of 4 images", "jax 0.10"):
        assert fact in text
    assert f"{sum(x.size for x in jax.tree.leaves(params)):,}" in text
    assert '"contour_length": 6' in text
    assert "nan" not in text


def test_report_of_a_model_without_time(config, workdir, convolutional):
    path = write_report(config, workdir, *convolutional)
    assert {file.stem for file in path.parent.glob("*.png")} == EVERYWHERE
    text = text_of(path)
    assert "The run has not ended yet" in text
    for absent in ("kernel for", "gates", "film", "recurrence"):
        assert absent not in text


def test_report_of_a_bare_folder_and_of_a_changed_record(config, tmp_path, convolutional):
    (tmp_path / "result.json").write_text('{"test": {"accuracy": 0.987}}')
    path = write_report(config, tmp_path / ".", *convolutional)
    assert {file.stem for file in path.parent.glob("*.png")} == EVERYWHERE - {"learning_curves"}
    assert "result.json, has an accuracy of 98.70 %" in text_of(path)


def test_a_model_that_is_always_right(convolutional):
    task, params = convolutional
    params = jax.tree.map(jnp.zeros_like, params)
    params["Dense_0"]["bias"] = jnp.array([0.0, 5.0])
    test = dataclasses.replace(task.eval_sources["test"], labels=np.ones(30, np.uint8))
    predictions = measure.predict(task, params, test, 8)
    assert predictions.correct.all()
    assert len(predictions.mistakes()) == 0
    np.testing.assert_allclose(predictions.loss, np.log1p(np.exp(-5)), rtol=1e-4)
    page = Page("samples")
    add_samples(page, cast(Run, SimpleNamespace(predictions=predictions, data=test, split="test")))
    assert "none of the 30 images wrong" in page.html()
    assert page.html().count("<img") == 1


def test_predictions_are_those_of_the_model_for_any_batch_size(convolutional):
    task, params = convolutional
    data = task.eval_sources["test"]
    logits = task.model.apply({"params": params}, task.preprocess(data.images))
    expected = jax.nn.softmax(logits)[:, 1]
    for size in (7, 30, 64):
        predictions = measure.predict(task, params, data, size)
        np.testing.assert_allclose(predictions.probability, expected, rtol=1e-5)
        assert (predictions.correct == ((expected > 0.5) == (data.labels == 1))).all()


def test_mistakes_come_surest_first():
    predictions = Predictions(np.array([1, 0, 0, 1]), np.array([0.3, 0.9, 0.2, 0.6]), np.zeros(4))
    np.testing.assert_array_equal(predictions.correct, [False, False, True, True])
    np.testing.assert_array_equal(predictions.mistakes(), [1, 0])


def test_anatomy_gates_and_states(recurrent):
    task, params = recurrent
    anatomy = measure.find_anatomy(task, params)
    assert anatomy.steps == 3
    assert anatomy.gates["cssm_0"][:4] == ["decay_Q", "decay_K", "decay_A", "w_qk"]
    assert anatomy.state_names("cssm_0") == ["Q", "K", "A"]
    np.testing.assert_array_equal(anatomy.kernels["cssm_0"], params["cssm_0"]["kernel"])
    batch = task.eval_sources["test"].images[:20]
    gate = measure.gate_values(task, params, anatomy, batch)["cssm_0"]["decay_A"]
    named = jax.jit(lambda x: measure.capture(task.model, {"params": params}, x)[1])(
        task.preprocess(batch)
    )
    values = np.asarray(named["cssm_0/gates/decay_A"]).reshape(3, 20, -1)
    np.testing.assert_allclose(gate.mean, values.mean(-1), rtol=1e-5)
    limits = np.quantile(values, (0.1, 0.9), axis=-1).mean(-1).T
    np.testing.assert_allclose(gate.middle, limits, rtol=1e-4)
    energy = measure.state_energy(task, params, "cssm_0", batch)
    assert energy.shape == (20, 3, 3, 4, 4)
    key = np.asarray(named["cssm_0/states"])[2, 5, ..., 1]
    strength = np.sqrt(((key - key.mean((0, 1))) ** 2).mean(-1))
    np.testing.assert_allclose(energy[5, 1, 2], strength, rtol=1e-4)


def test_pixel_attribution_is_the_gradient_of_the_true_logit(convolutional):
    task, params = convolutional
    data = task.eval_sources["test"]

    def logit(x, label):
        return task.model.apply({"params": params}, x[None])[0, label]

    x = task.preprocess(data.images[:20])
    found = measure.pixel_attribution(task, params, data.images[:20], data.labels[:20], 1)
    for i in (0, 19):
        expected = jnp.abs(jax.grad(logit)(x[i], int(data.labels[i]))).sum(-1)
        np.testing.assert_allclose(found[i, 0], expected, rtol=1e-4, atol=1e-9)


def test_shortcuts_find_what_betrays_the_label():
    data = make_images(4000, 0)
    data.images = np.zeros((4000, 4, 4), np.uint8)
    lit = np.random.default_rng(0).random(4000) < 0.5 + 0.3 * data.labels
    data.images[lit, :2] = 255
    scores = measure.shortcuts(data)
    assert scores.keys() == {"majority class", *data.shortcut_features()}
    assert scores["majority class"].value == 0.5
    assert 0.62 < scores["marker distance"].value < 0.72
    assert 0.72 < scores["headings at the markers"].value < 0.8
    assert scores["lit fraction"] == Score.of(lit == (data.labels == 1))
    data.labels[:1000] = 1
    assert measure.shortcuts(data)["majority class"].value == 0.625


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.5, 0, "50 %"), (0.99996, 1, "99.9 %"), (1.0, 1, "100.0 %"), (0.0, 1, "0.0 %")],
)
def test_share(value, digits, text):
    assert share(value, digits) == text


def test_interval_and_duration():
    assert interval(Score(0.91, 0.9005, 0.9249)) == "90.0 to 92.5 %"
    assert duration(15.2) == "15 s"
    assert duration(59.6) == "1 min 00 s"
    assert duration(7384) == "2 h 03 min"
