"""Figures of attention hold the numbers they were given."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from common import analysis
from common.analysis import style

RNG = np.random.default_rng(0)


def with_images(figure: Figure) -> list[Any]:
    return [axes for axes in figure.axes if axes.images]


def lines(axes) -> dict[str, Any]:
    return {line.get_label(): line for line in axes.lines}


def test_every_head_of_every_layer_is_drawn_on_one_scale():
    weights = {"first": RNG.random((3, 6, 6)), "second": 2 * RNG.random((2, 6, 6))}
    figure = analysis.attention_maps(weights)
    shown = with_images(figure)
    for axes, head in zip(shown, [*weights["first"], *weights["second"]], strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), head)
        assert axes.images[0].get_clim() == (0, weights["second"].max())
    titles = [axes.get_title(loc="left") for axes in shown]
    assert titles == ["head 1", "head 2", "head 3", "head 1", "head 2"]
    assert [axes.get_ylabel() for axes in shown] == ["first", "", "", "second", ""]
    split = with_images(analysis.attention_maps({"only": RNG.random((5, 3, 3))}))  # in two rows
    assert [axes.get_ylabel() for axes in split] == ["only", "", "", "", ""]


@pytest.mark.parametrize(
    ("heads", "layers", "rows"),
    [(4, 1, 1), (8, 1, 2), (8, 2, 2), (12, 1, 3), (12, 2, 4), (1, 1, 1)],
)
def test_maps_stay_large_enough_to_read(heads, layers, rows):
    weights = {f"layer {i}": RNG.random((heads, 4, 4)) for i in range(layers)}
    figure = analysis.attention_maps(weights)
    style.to_png(figure)
    boxes = [axes.get_position() for axes in with_images(figure)]
    assert len({round(box.y0, 3) for box in boxes}) == rows
    width, height = figure.get_size_inches()
    assert width <= style.WIDTH
    sides = [(box.width * width, box.height * height) for box in boxes]
    np.testing.assert_allclose(sides, sides[0][0], rtol=0.02)
    assert sides[0][0] > 0.72 and min(box.x0 for box in boxes) > 0 and max(b.x1 for b in boxes) < 1


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("labels", [None, ["word"] * 6])
def test_words_beside_the_maps_stay_apart(layers, labels):
    weights = {f"attention, {i} layers: layer 1": RNG.random((4, 6, 6)) for i in range(layers)}
    figure = analysis.attention_maps(weights, labels)
    style.to_png(figure)
    query, *names = (
        text.get_window_extent()
        for text in (figure._supylabel, *(axes.yaxis.label for axes in with_images(figure)[::4]))
    )
    letter = 9 / 72 * figure.dpi
    assert query.x0 > 0 and all(name.x0 - query.x1 > letter / 2 for name in names)
    for above, below in zip(names, names[1:], strict=False):
        assert above.y0 - below.y1 > letter


def test_tokens_are_written_at_the_outer_maps_whatever_they_are():
    labels = ["the", "\n", "$x$", "戦", "\t", "Ġé"]
    figure = analysis.attention_maps(
        {"a": RNG.random((2, 6, 6)), "b": RNG.random((2, 6, 6))}, labels
    )
    style.to_png(figure)
    wanted = ["the", "¶", r"\$x\$", "□", "→", "Ġé"]
    first, _, third, fourth = with_images(figure)
    assert [text.get_text() for text in first.get_yticklabels()] == wanted
    for axes in (third, fourth):
        assert [text.get_text() for text in axes.get_xticklabels()] == wanted
    many = analysis.attention_maps({"a": RNG.random((1, 40, 40))}, ["x"] * 40)
    assert len(with_images(many)[0].get_xticks()) == 0


def test_the_head_with_the_most_mass_at_one_offset_is_named():
    offsets, even = [-1, 0, 1, 2], np.full(4, 0.1)
    profiles = {
        "one": np.array([[0.0, 0.2, 0.3, 0.1], [0.1, 0.1, 0.9, 0.1]]),
        "two": np.array([[0.5, np.nan, 0.4, 0.5], [0.4, np.nan, 0.4, 0.4]]),
        "none": np.full((2, 4), np.nan),
    }
    figure = analysis.offset_profile(offsets, profiles, even)
    style.to_png(figure)
    one, two, none = figure.axes
    np.testing.assert_array_equal(lines(one)["head 2"].get_ydata(), profiles["one"][1])
    np.testing.assert_array_equal(lines(one)["head 2"].get_xdata(), offsets)
    np.testing.assert_array_equal(lines(two)["head 1"].get_ydata(), profiles["two"][0])
    np.testing.assert_array_equal(lines(two)["even"].get_ydata(), even)
    others = [line.get_ydata() for line in one.lines if len(line.get_xdata()) == 4]
    assert any(np.array_equal(line, profiles["one"][0]) for line in others)
    assert [axes.get_title(loc="left") for axes in (one, two, none)] == list(profiles)


def test_a_kernel_is_drawn_by_offset_and_channel():
    kernel = np.array([[0.1, -0.9, 0.0], [0.5, 0.2, -0.3], [0.2, 0.1, 0.7]])
    figure = analysis.kernel_profile(kernel, title="layer 1")
    style.to_png(figure)
    left, right = figure.axes[:2]
    drawn = lines(left)
    np.testing.assert_array_equal(drawn["mean"].get_xdata(), [-2, -1, 0])
    np.testing.assert_allclose(drawn["mean"].get_ydata(), kernel.mean(1))
    np.testing.assert_allclose(drawn["mean |weight|"].get_ydata(), [1 / 3, 1 / 3, 1 / 3])
    band = left.collections[0].get_paths()[0].get_extents()
    assert band.y0 == pytest.approx((kernel.mean(1) - kernel.std(1)).min())
    np.testing.assert_array_equal(right.images[0].get_array(), kernel[:, [1, 0, 2]].T)
    assert right.images[0].get_clim() == (-0.9, 0.9)
    assert [text.get_text() for text in right.get_xticklabels()] == ["−2", "−1", "0"]
    assert not left.texts and not left.patches


def test_future_offsets_stand_on_grey():
    figure = analysis.kernel_profile(RNG.standard_normal((5, 4)), range(-2, 3))
    left = figure.axes[0]
    np.testing.assert_array_equal(lines(left)["mean"].get_xdata(), [-2, -1, 0, 1, 2])
    assert (left.patches[0].get_x(), left.patches[0].get_x() + left.patches[0].get_width()) == (
        0.5,
        2.5,
    )
    assert left.texts[0].get_text() == " future"


def test_losses_are_averaged_over_sequences_with_their_interval():
    losses = {"a": np.array([[1.0, 2.0, 0.5], [3.0, 2.0, 0.5]]), "b": np.array([[4.0, 4.0, 4.0]])}
    figure = analysis.loss_by_position(losses, {"ln 64": 4.16}, {"second half": 2})
    style.to_png(figure)
    (axes,) = figure.axes
    np.testing.assert_array_equal(lines(axes)["a"].get_xydata(), [[1, 2], [2, 2], [3, 0.5]])
    np.testing.assert_array_equal(lines(axes)["b"].get_ydata(), [4, 4, 4])
    band = axes.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((2 - 1.96, 2 + 1.96))
    assert axes.get_ylim()[0] == 0
    assert [text.get_text() for text in axes.texts] == ["ln 64", "second half"]
    assert 4.16 in [line.get_ydata()[0] for line in axes.lines]


def test_the_axis_begins_at_zero_only_where_a_loss_comes_near():
    figure = analysis.loss_by_position({"a": np.array([[5.0, 4.5]]), "b": np.array([[4.8, 4.2]])})
    assert figure.axes[0].get_ylim()[0] > 4


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("length", [1, 7, 128, 1000, 4096])
def test_long_rows_are_averaged_over_parts_that_cover_them(log, length):
    ramp = np.arange(1.0, length + 1)[None] + 5
    figure = analysis.loss_by_position({"a": ramp}, log=log)
    drawn = lines(figure.axes[0])["a"]
    np.testing.assert_allclose(drawn.get_ydata(), drawn.get_xdata() + 5)
    assert len(drawn.get_xdata()) <= 128
    if not log:
        gaps = np.diff(drawn.get_xdata())
        assert len(gaps) == min(length, 128) - 1 and (gaps.size == 0 or np.ptp(gaps) <= 1)


def test_kernels_of_all_lengths_end_at_the_current_token():
    kernels = {"2 taps": RNG.normal(size=(2, 5)), "4 taps": RNG.normal(size=(4, 5))}
    (axes,) = analysis.tap_profiles(kernels).axes
    drawn = lines(axes)
    assert set(drawn) == set(kernels)
    for name, kernel in kernels.items():
        size = np.abs(kernel).mean(1)
        np.testing.assert_array_equal(drawn[name].get_xdata(), range(1 - len(kernel), 1))
        np.testing.assert_allclose(drawn[name].get_ydata(), size / size.sum())
