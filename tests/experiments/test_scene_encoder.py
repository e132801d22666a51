"""The encoder of pictures: what it is taught, what it sees, and that runs share it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.data.pipeline import gather
from common.data.sort_of_clevr import SceneSettings, SortOfClevr
from common.errors import UserError
from common.injection import GatedMLP
from experiments.cli import load_config
from experiments.injection import DEFAULT_CONFIG
from experiments.models.scene_encoder import STEEPNESS, DistanceAttention, PlacesBlock
from experiments.tasks.encoded_scenes import EncodedScenes
from experiments.tasks.scene_encoder import (
    encoder_run,
    make_task,
    things_at_places,
    trained_encoder,
)


def smoke(**fields):
    return load_config(f"{DEFAULT_CONFIG}:cross,smoke", fields)


def drawn(task):
    """A task's parameters, compiled as a whole."""
    return jax.jit(task.init)(jax.random.key(0))


@pytest.mark.parametrize(("size", "radius", "side"), [(75, 5, 10), (41, 2, 6)])
def test_objects_stand_where_their_centres_are(size, radius, side):
    batch = gather(SortOfClevr(SceneSettings(size, radius), 20), np.arange(20))
    found = np.asarray(things_at_places(batch, side, size)).reshape(20, side, side, 3)
    for picture, centres, shapes in zip(found, batch["centres"], batch["shapes"], strict=True):
        expected = np.zeros((side, side, 3), int)
        for number, centre in enumerate(centres):
            apart = [
                np.inf if n == number else np.hypot(*(c - centre)) for n, c in enumerate(centres)
            ]
            nearest = int(np.argmin(apart))
            furthest = int(np.argmax([0 if n == number else d for n, d in enumerate(apart)]))
            row, column = (int(x // (size / side)) for x in centre)
            named = [1 + 2 * n + shapes[n] for n in (number, nearest, furthest)]
            expected[row, column] = np.maximum(expected[row, column], named)
        if radius == 5:  # no place has two
            np.testing.assert_array_equal(picture, expected)
        np.testing.assert_array_equal(picture[..., 0] > 0, expected[..., 0] > 0)


def test_every_object_and_all_that_is_empty_weigh_the_same():
    config, _ = encoder_run(smoke())
    task = make_task(config)
    params, batch = drawn(task), gather(task.train_source, np.arange(3))
    loss, metrics = jax.jit(task.loss)(params, batch, jax.random.key(0))
    names = np.asarray(jax.jit(task.see)(params, batch["image"]).names, np.float64)
    things = np.asarray(things_at_places(batch, 6, 41))
    p = np.exp(names) / np.exp(names).sum(-1, keepdims=True)
    missed = -np.log(np.take_along_axis(p, things[..., None], -1)[..., 0])
    there = things[..., 0] > 0
    expected = missed[there].mean(0).sum() + missed[~there][:, 0].mean()
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    right = names.argmax(-1) == things
    for number, name in enumerate(("here", "nearest", "furthest")):
        assert metrics[name] == pytest.approx(right[there][:, number].mean())
    scores = jax.jit(task.score)(params, batch)
    for n in range(3):
        assert scores["accuracy"][n] == pytest.approx(right[n][there[n]].mean(), abs=1e-6)


def test_a_picture_is_seen_as_it_is_alone():
    """What else is in the batch does not count: norms are of a picture's own places."""
    task = make_task(encoder_run(smoke())[0])
    params, pictures = drawn(task), gather(task.train_source, np.arange(2))["image"]
    see = jax.jit(task.see)
    for many, one in zip(see(params, pictures), see(params, pictures[:1]), strict=True):
        np.testing.assert_allclose(many[:1], one, rtol=1e-4, atol=1e-4)


def test_distance_attention_by_definition():
    """Scores of contents minus a times the squared distance of points, which move with content."""
    rng = np.random.default_rng(0)
    module = DistanceAttention(2, 4)
    x = rng.standard_normal((2, 9, 6)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.4, leaf.shape).astype(np.float32), shapes)
    found = jax.jit(module.apply)({"params": params}, x)

    p = jax.tree.map(np.float64, params)
    heads = {n: np.einsum("bsc,chd->bhsd", x, p[n]["kernel"]) for n in ("query", "key", "value")}
    for name in ("query", "key"):
        y = heads[name]
        y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6)
        heads[name] = y * p[f"{name}_norm"]["scale"]
    middles = np.array([[(i + 0.5) / 3, (j + 0.5) / 3] for i in range(3) for j in range(3)])
    points = middles + x @ p["shift"]["kernel"]
    squared = ((points[:, :, None] - points[:, None]) ** 2).sum(-1)
    scores = heads["query"] @ heads["key"].swapaxes(-1, -2) / 2
    scores = scores - STEEPNESS * p["steepness"][:, None, None] * squared[:, None]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bhsd,hdc->bsc", weights @ heads["value"], p["out"]["kernel"])
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


def test_places_see_each_other():
    block = PlacesBlock(DistanceAttention(2, 4), GatedMLP(8))
    x = np.random.default_rng(0).standard_normal((1, 4, 8)).astype(np.float32)
    other = x.copy()
    other[:, 0, ::2] += 1
    ask = jax.jit(lambda x: block.init_with_output(jax.random.key(0), x)[0])
    assert np.abs(ask(x) - ask(other)).max(-1).min() > 1e-4


def test_runs_share_an_encoder_by_its_settings_and_seed():
    first = encoder_run(smoke())[1]
    assert encoder_run(smoke(**{"train.steps": 7, "model.layers": (0,)}))[1] == first
    assert encoder_run(smoke(**{"encoder.folder": "elsewhere"}))[1].name == first.name
    others = [{"seed": 1}, {"data.seed": 1}, {"data.radius": 3}, {"encoder.train.steps": 7}]
    folders = {encoder_run(smoke(**fields))[1].name for fields in others}
    assert len(folders | {first.name}) == 5


def test_pictures_are_encoded_once(tmp_path):
    pictures = SortOfClevr(SceneSettings(41, 2), 60)
    calls = []

    def find():
        calls.append(1)
        return lambda images: images[:, 9:13, 9:14, 0].astype(np.float32)

    first = EncodedScenes(pictures, find, "a", tmp_path)
    assert len(first) == 60 and not calls, "not before it is asked for"
    batch, drawn_now = first.__getitems__([3, 59]), gather(pictures, np.array([3, 59]))
    np.testing.assert_array_equal(batch["features"], find()(drawn_now["image"]))
    np.testing.assert_array_equal(batch["tokens"], drawn_now["tokens"])
    np.testing.assert_array_equal(first[59]["features"], batch["features"][1])
    again = EncodedScenes(pictures, lambda: pytest.fail("encoded again"), "a", tmp_path)
    np.testing.assert_array_equal(again[3]["features"], batch["features"][0])
    other = EncodedScenes(pictures, find, "b", tmp_path)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert other[3]["features"].shape == (4, 5)
    assert len(calls) == 3 and len(list(tmp_path.iterdir())) == 2


def test_an_encoder_that_is_missing_is_named(tmp_path):
    config = smoke(**{"encoder.folder": str(tmp_path)})
    with pytest.raises(UserError, match="holds no trained encoder"):
        trained_encoder(config)


def test_nothing_is_named_where_nothing_stands_and_features_fade_there():
    task = make_task(encoder_run(smoke())[0])
    params = drawn(task)
    params["names"]["bias"] = jnp.asarray(params["names"]["bias"]).at[0, 0].set(100.0)
    seen = jax.jit(task.see)(params, gather(task.train_source, np.arange(1))["image"])
    assert float(jnp.abs(seen.features).max()) < 1e-6
