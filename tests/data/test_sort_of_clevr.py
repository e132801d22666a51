"""Sort-of-CLEVR: answers told again from scenes and from pixels, and what gives them away."""

import numpy as np
import pytest

from common.data.pipeline import evaluation_batches
from common.data.sort_of_clevr import (
    COLOURS,
    SHAPES,
    TYPES,
    WORDS,
    SceneSettings,
    SortOfClevr,
    decode,
    measure_floors,
)
from common.errors import UserError

SETTINGS = [SceneSettings(), SceneSettings(41, 2), SceneSettings(101, 4)]
EVERY = 6
"""Questions of each type that ask for all colours."""
FIRST_CENTRES = [[67, 36], [57, 44], [53, 31], [56, 67], [61, 21], [33, 25]]
FIRST_QUESTIONS = ["shape of blue circle", "side of grey left", "level of green bottom"]
FIRST_QUESTIONS += ["nearest to blue square", "furthest from orange circle", "number like green 4"]


def drawn(settings=SETTINGS[0], count=200, per_type=EVERY, seed=0):
    return SortOfClevr(settings, count, per_type, seed).__getitems__(np.arange(count))


def seen(image):
    """Finds the objects of a picture, pixel by pixel: colour to (centre y, centre x, shape)."""
    found = {}
    for name, colour in COLOURS.items():
        rows, columns = np.nonzero((image == colour).all(-1))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height == width, name
        shape = "square" if len(rows) == height * width else "circle"
        found[name] = (rows.mean() + 0.5, columns.mean() + 0.5, shape)
    return found


def answer(question, objects, size):
    """Answers a question by looking at one object after the other."""
    kind, _, colour = question.split()
    y, x, shape = objects[colour]
    others = {
        (oy - y) ** 2 + (ox - x) ** 2: oshape
        for name, (oy, ox, oshape) in objects.items()
        if name != colour
    }
    assert len(others) == 5, "no two are equally far"
    if kind == "shape":
        return shape
    if kind == "side":
        return "left" if x < size / 2 else "right"
    if kind == "level":
        return "top" if y < size / 2 else "bottom"
    if kind == "nearest":
        return others[min(others)]
    if kind == "furthest":
        return others[max(others)]
    return str(sum(o[2] == shape for o in objects.values()))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_answers_are_those_told_from_the_pixels(settings):
    batch = drawn(settings, 60)
    for image, tokens in zip(batch["image"], batch["tokens"], strict=True):
        objects = seen(image)
        for row in tokens:
            *question, told = decode(row).split()
            assert told == answer(" ".join(question), objects, settings.image_size)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_scenes_are_what_the_pictures_show(settings):
    source = SortOfClevr(settings, 40, 1)
    scenes = source.scenes(np.arange(40))
    for image, centres, shapes in zip(
        source.__getitems__(np.arange(40))["image"], *scenes, strict=True
    ):
        found = list(seen(image).values())
        np.testing.assert_array_equal([x[:2] for x in found], centres)
        assert [x[2] for x in found] == [SHAPES[i] for i in shapes]
        apart = np.abs(centres[:, None] - centres[None]).max(-1)[~np.eye(6, dtype=bool)]
        assert apart.min() >= 2 * settings.radius


def test_questions_are_readable_and_of_every_type():
    tokens = drawn(per_type=2)["tokens"]
    assert tokens.shape == (200, 12, 4) and tokens.dtype == np.int32
    words = [decode(row).split() for row in tokens.reshape(-1, 4)]
    assert [row[0] for row in words[:12]] == [name for name in TYPES for _ in range(2)]
    assert {" ".join(row[:2]) for row in words} == {
        "shape of", "side of", "level of", "nearest to", "furthest from", "number like"
    }  # fmt: skip
    colours = tokens[..., 2].reshape(200, 6, 2)
    assert (colours[..., 0] != colours[..., 1]).all()
    assert len(WORDS) == len(set(WORDS)) == 30


def test_a_picture_depends_on_settings_seed_and_number_alone():
    large, small = SortOfClevr(SETTINGS[0], 10**9, 3, 7), SortOfClevr(SETTINGS[0], 30, 3, 7)
    whole = large.__getitems__(np.arange(30))
    mixed = large.__getitems__(np.array([20, 3, 3, 17]))
    for name, array in mixed.items():
        np.testing.assert_array_equal(array, whole[name][[20, 3, 3, 17]])
        np.testing.assert_array_equal(small[-1][name], whole[name][29])
    one = SortOfClevr(SETTINGS[0], 30, 1, 7)
    np.testing.assert_array_equal(one[4]["image"], whole["image"][4])
    np.testing.assert_array_equal(one[4]["tokens"], whole["tokens"][4, ::3])
    pictures = {image.tobytes() for image in whole["image"]}
    assert len(pictures) == 30
    assert not pictures & {image.tobytes() for image in drawn(count=30, seed=8)["image"]}
    with pytest.raises(IndexError):
        small[30]


def test_the_first_picture_stays_what_it_was():
    """A change of the generator is a change of every result: raise the fingerprint's version."""
    source = SortOfClevr(SceneSettings(), 1, 1, 0)
    scenes = source.scenes(np.array([0]))
    assert scenes.centres[0].tolist() == FIRST_CENTRES
    assert [decode(row) for row in source[0]["tokens"]] == FIRST_QUESTIONS


def test_answers_are_balanced_where_the_task_allows():
    source = SortOfClevr(SceneSettings(), 4000, EVERY)
    floors = measure_floors(source)
    for name in TYPES[:5]:
        assert floors.majority[name] == pytest.approx(0.5, abs=0.02), name
        assert floors.question[name] == pytest.approx(0.5, abs=0.025), name
    # the others' shapes are five coins: three of them are like the asked one's in 10 of 32 cases
    assert floors.majority["number"] == pytest.approx(10 / 32, abs=0.015)
    assert floors.question["number"] == pytest.approx(10 / 32, abs=0.03)
    majority_of_five = (10 * 3 + 5 * 4 + 1 * 5) * 2 / 32 / 5
    for name in ("nearest", "furthest"):
        assert floors.shapes[name] == pytest.approx(majority_of_five, abs=0.02)
        assert floors.image[name] == pytest.approx(0.69, abs=0.05)
    assert sum(floors.image.values()) / 6 < 0.36


def test_places_and_colours_say_nothing_of_shapes():
    scenes = SortOfClevr(SceneSettings(), 4000).scenes(np.arange(4000))
    squares = scenes.shapes == 1
    assert np.abs(squares.mean(0) - 0.5).max() < 0.035
    centres = scenes.centres.astype(float)
    for axis in (0, 1):
        own = np.corrcoef(centres[..., axis].ravel(), squares.ravel())[0, 1]
        assert abs(own) < 0.03
        assert np.abs(centres[..., axis].mean(0) - 37.5).max() < 1.0
        assert {centres[..., axis].min(), centres[..., axis].max()} == {5, 70}


def test_floors_are_counted_as_by_hand():
    """All answers of six pictures, counted in loops."""
    source = SortOfClevr(SceneSettings(), 6, EVERY, 3)
    batch = source.__getitems__(np.arange(6))
    floors = measure_floors(source)
    rows = [[decode(row).split() for row in tokens] for tokens in batch["tokens"]]
    for name in TYPES:
        told = [row[3] for picture in rows for row in picture if row[0] == name]
        assert floors.majority[name] == pytest.approx(max(map(told.count, told)) / len(told))
        by_colour = [
            [row[3] for picture in rows for row in picture if (row[0], row[2]) == (name, colour)]
            for colour in COLOURS
        ]
        best = sum(max(map(answers.count, answers)) for answers in by_colour)
        assert floors.question[name] == pytest.approx(best / 36)
    answers = [[row[3] for row in picture] for picture in rows]
    best = [max(sorted(set(a), key=WORDS.index), key=a.count) for a in answers]
    for name in TYPES:
        right = sum(
            row[3] == guess
            for picture, guess in zip(rows, best, strict=True)
            for row in picture
            if row[0] == name
        )
        assert floors.image[name] == pytest.approx(right / 36)


def test_fingerprints_tell_sources_apart():
    sources = [SortOfClevr(settings, 10, 2) for settings in SETTINGS]
    sources += [SortOfClevr(SETTINGS[0], 11, 2), SortOfClevr(SETTINGS[0], 10, 3)]
    sources += [SortOfClevr(SETTINGS[0], 10, 2, 1)]
    assert len({source.fingerprint for source in sources}) == len(sources)
    assert SortOfClevr(SETTINGS[0], 10, 2).fingerprint == sources[0].fingerprint


def test_the_source_feeds_the_pipeline():
    source = SortOfClevr(SETTINGS[0], 10, 2)
    batches = list(evaluation_batches(source, 4))
    assert [int(batch["mask"].sum()) for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(batches[1]["image"][2], source[6]["image"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SceneSettings(61), "data.image_size is 61; 6 objects of radius 5 want 71 or more"),
        (lambda: SceneSettings(76), "data.image_size is 76; expected an odd number"),
        (lambda: SceneSettings(75, 1), "data.radius is 1; expected an integer, 2 or more"),
        (lambda: SceneSettings(75.0), "data.image_size is 75.0; expected an integer"),
        (lambda: SortOfClevr(SETTINGS[0], 0), "data.count is 0"),
        (lambda: SortOfClevr(SETTINGS[0], 5, 7), "data.per_type is 7; expected an integer, 1 to 6"),
    ],
)
def test_settings_that_cannot_be_are_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_the_smallest_picture_has_room():
    drawn(SceneSettings(71), 2000, 1)
