import sys
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from common import analysis
from common.analysis import style

NAMES = ("not connected", "connected")


def axes_of(figure: Figure) -> list[Any]:
    return list(figure.axes)


def lines(axes) -> dict[str, Any]:
    return {line.get_label(): line for line in axes.lines}


def pictures(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in axes_of(figure) if axes.images]


def test_learning_curves_hold_the_records():
    records = [
        {"step": 10, "split": "train", "loss": 0.7, "accuracy": 0.5, "timing": {}},
        {"step": 20, "split": "train", "loss": 0.4, "accuracy": 0.8, "timing": {}},
        {"step": 20, "split": "validation", "loss": 0.5, "accuracy": 0.75,
         "accuracy_low": 0.7, "accuracy_high": 0.8},
        {"step": 30, "split": "test", "loss": 0.45, "accuracy": 0.78},
    ]  # fmt: skip
    figure = analysis.learning_curves(records, chance=0.5, best_step=20)
    loss, accuracy = axes_of(figure)
    np.testing.assert_array_equal(lines(loss)["train"].get_xydata(), [[10, 0.7], [20, 0.4]])
    np.testing.assert_array_equal(lines(accuracy)["validation"].get_xydata(), [[20, 0.75]])
    np.testing.assert_array_equal(lines(accuracy)["test"].get_xydata(), [[20, 0.78]])
    assert lines(accuracy)["chance"].get_ydata()[0] == 0.5
    band = accuracy.collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((0.7, 0.8))


def test_image_grid_holds_images_and_captions():
    images = np.arange(7 * 4, dtype=np.uint8).reshape(7, 2, 2)
    figure = analysis.image_grid(images, [f"image {i}" for i in range(7)], columns=4)
    np.testing.assert_array_equal(pictures(figure), images)
    shown = [axes for axes in axes_of(figure) if axes.images]
    assert [axes.get_title(loc="left") for axes in shown] == [f"image {i}" for i in range(7)]
    assert {axes.images[0].get_clim() for axes in shown} == {(0, 27)}


def test_kernels_stand_by_norm_on_one_symmetric_scale():
    kernels = np.array([0.5, -3.0, 1.0])[:, None, None] * np.ones((3, 2, 2))
    figure = analysis.kernel_grid(kernels)
    shown = [axes for axes in axes_of(figure) if axes.images]
    assert [axes.get_title() for axes in shown] == ["1", "2", "0"]
    np.testing.assert_array_equal(pictures(figure), kernels[[1, 2, 0]])
    assert {axes.images[0].get_clim() for axes in shown} == {(-3.0, 3.0)}


def test_gates_are_averaged_by_label():
    labels = np.array([0, 1, 1])
    gates = {"decay": np.array([[0.1, 0.2, 0.4], [0.3, 0.6, 0.8]]), "mix": np.full((2, 3), 0.5)}
    ranges = {name: np.array([[0.0, 1.0], [0.1, 0.9]]) for name in gates}
    figure = analysis.gates_over_time(gates, labels, NAMES, ranges)
    decay, mix = axes_of(figure)
    np.testing.assert_allclose(lines(decay)["connected"].get_xydata(), [[1, 0.3], [2, 0.7]])
    np.testing.assert_allclose(lines(decay)["not connected"].get_ydata(), [0.1, 0.3])
    assert (decay.get_title(loc="left"), mix.get_title(loc="left")) == ("decay", "mix")
    grey, _, spread = (c.get_paths()[0].get_extents() for c in decay.collections)
    assert (grey.y0, grey.y1) == (0, 1)
    assert (spread.y0, spread.y1) == pytest.approx((0.2, 0.8))


def test_attribution_over_time_holds_means_and_running_share():
    attribution = np.array([[1.0, 3.0], [2.0, 2.0], [4.0, 0.0]])
    figure = analysis.attribution_over_time(attribution, np.array([1, 0, 0]), NAMES)
    left, right = axes_of(figure)
    assert [bar.get_height() for bar in left.patches] == [3.0, 1.0, 1.0, 3.0]
    np.testing.assert_allclose(right.lines[0].get_ydata(), [0.75, 1.0])
    np.testing.assert_allclose(right.lines[1].get_ydata(), [0.25, 1.0])


def test_attribution_maps_stand_under_their_images():
    images, maps = np.zeros((2, 4, 4)), np.random.default_rng(0).random((2, 4, 4))
    figure = analysis.attribution_maps(images, maps, ["a", "b"])
    np.testing.assert_array_equal(pictures(figure), [*images, *maps])


def test_states_share_a_scale_by_state():
    energy = np.random.default_rng(0).random((2, 3, 4, 5, 5))
    figure = analysis.states_over_time(np.zeros((2, 8, 8)), energy, NAMES, "QKA")
    shown = [axes for axes in axes_of(figure) if axes.images]
    states = [axes for axes in shown if axes.images[0].get_array().shape == (5, 5)]
    assert len(shown) - len(states) == 2
    np.testing.assert_array_equal(
        [np.asarray(axes.images[0].get_array()) for axes in states], energy.reshape(-1, 5, 5)
    )
    for i, axes in enumerate(states):
        assert axes.images[0].get_clim() == (0, energy[:, i // 4 % 3].max())
    assert [axes.get_ylabel() for axes in states[::4]] == list("QKAQKA")


def test_accuracy_is_binned_by_distance():
    distances = np.arange(100.0)[::-1]
    correct = distances >= 50
    table = analysis.binned_accuracy(distances, correct, bins=4)
    np.testing.assert_array_equal(table[:, 3], [0, 0, 1, 1])
    np.testing.assert_array_equal(table[:, 6], 25)
    np.testing.assert_array_equal(table[:2, 1:3], [[0, 24], [25, 49]])
    np.testing.assert_allclose(table[3, 4:6], [0.8668, 1.0], atol=1e-4)
    labels = np.arange(100) % 2
    figure = analysis.accuracy_by_distance(distances, correct, labels, NAMES, bins=4)
    top, bottom = axes_of(figure)
    np.testing.assert_allclose(top.lines[0].get_xydata(), table[:, [0, 3]])
    assert sum(patch.get_path().vertices[:, 1].max() > 0 for patch in bottom.patches) == 2


def test_fewer_images_than_bins():
    assert len(analysis.binned_accuracy(np.arange(3.0), np.ones(3, bool), bins=10)) == 3


def test_comparison_holds_values_and_intervals():
    figure = analysis.comparison(["model", "guess"], [0.9, 0.5], [0.88, 0.4], [0.92, 0.7], 0.5)
    (axes,) = axes_of(figure)
    first, second = axes.containers
    assert first.lines[0].get_xdata()[0] == 0.9
    bars = second.lines[2][0].get_segments()[0]
    np.testing.assert_allclose(bars[:, 0], [0.4, 0.7])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["model", "guess"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_drawing_leaves_the_settings_alone_and_keeps_no_figure():
    before = dict(matplotlib.rcParams)
    png = style.to_png(analysis.kernel_grid(np.ones((2, 3, 3))))
    assert png.startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
