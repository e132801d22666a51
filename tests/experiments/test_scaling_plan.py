import dataclasses

import jax
import pytest

from experiments import scaling_plan
from experiments.plans.accelerators import ACCELERATORS, H100
from experiments.plans.costs import Cost, costs, counted_steps, entries, factors, total
from experiments.plans.counted import training_step
from experiments.plans.layouts import (
    Layout,
    best_layout,
    bytes_sent,
    layouts,
    network_seconds,
    own_costs,
    step_on,
)
from experiments.plans.page import TOLERANCE, make_page
from experiments.plans.workloads import PATHFINDER, VIDEO, Workload

SMALL = Workload("small", 2, 32, 8, 4, video=True, kernel=5)


def test_the_page_is_up_to_date():
    assert scaling_plan.check_page() == []


def test_a_stale_page_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling_plan, "PAGE", tmp_path / "scaling.md")
    monkeypatch.setattr(scaling_plan, "check_model", list)
    assert scaling_plan.main(["--check"]) == 1
    assert "docs/scaling.md is stale" in capsys.readouterr().err
    assert scaling_plan.main([]) == 0 and scaling_plan.main(["--check"]) == 0


def test_parameters_are_those_of_the_model():
    _, (params, *_) = training_step(SMALL)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == SMALL.parameters


def test_the_model_agrees_with_what_xla_has_counted():
    for step in counted_steps():
        ratios = step.ratios()
        assert abs(ratios["operations"] - 1) < 0.1, step.work.name
        assert abs(ratios["moved"] - 1) < TOLERANCE, step.work.name
        if not step.fitted:
            assert abs(ratios["temporary"] - 1) < TOLERANCE, step.work.name
    assert sum(not step.fitted for step in counted_steps()) >= 4


def test_the_page_names_what_is_outside_the_tolerance():
    off = sum(abs(r - 1) > TOLERANCE for step in counted_steps() for r in step.ratios().values())
    said = make_page().partition("Outside 20%: ")[2].partition("\n")[0]
    assert len(said.split("; ")) == off == 1


def test_every_factor_counts():
    assert all(factor > 0 for figure in factors().values() for factor in figure.values())


def test_costs_grow_in_proportion_to_the_batch():
    twice = dataclasses.replace(PATHFINDER, batch=2 * PATHFINDER.batch)
    for part, cost in costs(PATHFINDER).items():
        factor = 1 if part == "optimizer" else 2
        assert costs(twice)[part] == pytest.approx(cost.times(factor)), part
    assert entries(twice)["scan"] == 2 * entries(PATHFINDER)["scan"]


@pytest.mark.parametrize("work", [PATHFINDER, VIDEO], ids=["images", "video"])
def test_devices_share_the_work(work):
    one = total(costs(work).values())
    for devices in (8, 64):
        for layout in layouts(work, devices):
            assert layout.devices == devices
            own = total(own_costs(work, layout).values())
            assert all(devices * x >= 0.999 * y for x, y in zip(own, one, strict=True)), layout
    exact = own_costs(work, Layout(data=8))
    assert exact["scan"] == pytest.approx(costs(work)["scan"].times(1 / 8))
    assert exact["optimizer"] == costs(work)["optimizer"]
    assert own_costs(work, Layout(frequency=4))["stem"] == costs(work)["stem"]


def test_bytes_sent_by_hand():
    weights = 4 * VIDEO.parameters
    assert not any(bytes_sent(VIDEO, Layout()).values())
    assert bytes_sent(VIDEO, Layout(data=4))["data"] == 1.5 * weights
    assert bytes_sent(VIDEO, Layout(fsdp=4))["fsdp"] == 2.25 * weights
    lanes = 8 * VIDEO.width * VIDEO.frequencies  # complex numbers of one state, in bytes
    sent = bytes_sent(dataclasses.replace(VIDEO, batch=1), Layout(time=2))
    assert sent["time"] == 15 * lanes + 6 * lanes
    sent = bytes_sent(dataclasses.replace(VIDEO, batch=1), Layout(frequency=2))
    maps = 4 * VIDEO.width * VIDEO.cells
    assert sent["frequency"] == pytest.approx(1025 * (lanes / 2 + maps))


def test_a_node_is_left_at_a_cost():
    inside, beyond = Layout(data=8), Layout(data=16)
    assert network_seconds(VIDEO, beyond, H100) > 8 * network_seconds(VIDEO, inside, H100)


def test_the_best_layout_fits_and_no_other_is_faster():
    for device in ACCELERATORS:
        best = best_layout(PATHFINDER, 64, device)
        assert best is not None and best.fits
        others = [step_on(PATHFINDER, layout, device) for layout in layouts(PATHFINDER, 64)]
        assert best.seconds == min(step.seconds for step in others if step.fits)
    assert best_layout(VIDEO, 1, H100) is None


def test_costs_add_up():
    assert total([Cost(1, 2, 3, 4), Cost(10, 20, 30, 40)]) == Cost(11, 22, 33, 44)


@pytest.mark.slow
def test_the_model_holds_on_this_machine():
    problems = scaling_plan.check_model()
    assert not [problem for problem in problems if "XLA's count" in problem]
