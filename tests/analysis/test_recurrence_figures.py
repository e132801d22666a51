"""What the figures of recurrences, causes and gradients show is what they were given."""

import io
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from common import analysis


def pictures(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def lines(axes: Any) -> dict[str, np.ndarray]:
    return {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}


def test_gate_maps_put_zero_frequency_in_the_middle_of_the_left_edge():
    gate = np.zeros((4, 3))
    gate[0, 0] = 0.84
    figure = analysis.gate_maps({"alpha": gate, "decay_Q": gate + 0.1})
    first = pictures(figure)[0]
    assert np.unravel_index(first.argmax(), first.shape) == (2, 0)
    titles = [axes.get_title(loc="left") for axes in figure.axes[:2]]
    assert titles == ["alpha\n0.07", "decay_Q\n0.17"]


def test_radius_by_frequency_averages_over_channels():
    radius = np.broadcast_to(np.array([0.5, 1.5]), (3, 8, 5, 2))
    figure = analysis.radius_by_frequency(radius, 8)
    for name in ("step 1", "step 2", "step 3"):
        np.testing.assert_allclose(lines(figure.axes[0])[name], 1.0)
    np.testing.assert_allclose(pictures(figure)[0], 1.0)


def test_impulses_have_each_a_symmetric_scale():
    responses = np.arange(2 * 3 * 4 * 4, dtype=float).reshape(2, 3, 4, 4) - 40
    figure = analysis.impulse_maps(responses, ["Q of Q", "Q of A"])
    np.testing.assert_array_equal(pictures(figure), responses.reshape(6, 4, 4))
    assert figure.axes[0].images[0].get_clim() == (-40, 40)
    assert figure.axes[3].get_ylabel() == "Q of A"


def test_receptive_fields_run_back_in_time():
    fields = np.ones((3, 5, 5))
    fields[2, 2, 2] = 100.0
    figure = analysis.receptive_fields(fields, {"half": np.array([3.0, 2.0, 1.0])})
    assert pictures(figure)[0][2, 2] == 0 and pictures(figure)[0][0, 0] == -2
    np.testing.assert_array_equal(lines(figure.axes[-1])["half"], [1, 2, 3])


def test_curves_hold_values_and_levels():
    panels = {"step": ([1, 2], {"a": ([0.5, 0.6], [0.4, 0.5], [0.6, 0.7])}), "x": ([0.1], {})}
    left, right = analysis.curves(panels, "accuracy", whole=0.9, chance=0.5).axes
    assert lines(left)["a"].tolist() == [0.5, 0.6]
    assert lines(right)["nothing changed"][0] == 0.9
    assert (left.get_xlabel(), right.get_xlabel()) == ("step", "x")


def test_knockouts_tell_a_loss_from_none():
    groups = {"As it is": {"nothing": (0.9, 0.8, 0.95)}}
    groups["States"] = {"Q": (0.5, 0.4, 0.6), "K": (0.89, 0.8, 0.94)}
    axes = analysis.knockouts(groups).axes[1]
    markers = [line.get_marker() for line in axes.lines if line.get_marker() in "so"]
    assert markers == ["s", "o"]
    assert [text.get_text() for text in axes.texts] == ["50.0 %", "89.0 %"]


def test_traces_share_one_scale():
    values = {"own": np.array([[0.0, 1.0, 2.0]]), "map": np.array([[4.0]])}
    figure = analysis.traces(values, "difference", ("tail", "head"))
    assert {axes.images[0].get_clim() for axes in figure.axes[:2]} == {(0, 4)}
    names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert names == ["tail", "2", "head"]


def test_answers_over_time_count_what_is_right():
    probability = np.array([[0.4, 0.9], [0.6, 0.2], [0.6, 0.7], [0.6, 0.9]])
    figure = analysis.answers_over_time(probability, np.array([1, 0, 1, 0]), ("no", "yes"))
    right = figure.axes[1].lines[0].get_ydata()
    np.testing.assert_allclose(right, [0.25, 0.75])
    np.testing.assert_allclose(lines(figure.axes[0])["yes"], [0.5, 0.8])


def test_mechanisms_and_kernel_gradients_by_label():
    labels = np.array([0, 1, 0, 1])
    figure = analysis.mechanisms({"w": np.array([1.0, 3.0, 1.0, 5.0])}, labels, ("no", "yes"))
    widths = sorted(bar.get_width() for bar in figure.axes[0].patches)
    assert widths == [1.0, 4.0]
    rng = np.random.default_rng(0)
    no, yes = rng.standard_normal((2, 3, 3))
    drawn = pictures(analysis.kernel_gradients((no, yes), ("no", "yes")))
    np.testing.assert_array_equal(drawn[:3], [yes, no, yes - no])


def test_cost_panels_hold_every_method():
    costs = {"work": {"a": [1.0, 2.0], "b": [3.0, 4.0]}, "time": {"a": [5.0, 6.0]}}
    figure = analysis.cost_over_length([2, 4], costs)
    assert lines(figure.axes[0])["b"].tolist() == [3, 4]
    assert figure.axes[1].get_title(loc="left") == "time"


def test_the_film_has_a_picture_for_each_step_and_holds_the_last():
    energy = np.random.default_rng(0).random((1, 2, 3, 4, 4))
    gif = analysis.states_gif(np.zeros((1, 8, 8)), energy, ["image"], ["Q", "A"])
    film = Image.open(io.BytesIO(gif))
    frames = getattr(film, "n_frames", 0)
    assert film.format == "GIF" and 3 <= frames <= 5  # equal pictures in a row may be one
    page = analysis.Page("x").animation(gif, "film", "the states")
    assert 'src="data:image/gif;base64,' in page.html()
    with pytest.raises(ValueError, match="two figures named 'film'"):
        page.figure(Figure(), "film", "again")
