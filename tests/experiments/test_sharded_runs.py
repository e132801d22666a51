"""Twenty steps of each experiment on eight devices, against one.

With a small learning rate: at the configs' own, rounding grows to 1e-3 within 20 steps of the small
Pathfinder model, on one device too if its parameters are changed by 1e-7 of themselves.
"""

from typing import Any

import numpy as np
import pytest

from common.data.pipeline import training_batches
from common.mesh import make_mesh
from common.train.parts import RunParts
from experiments import language, pathfinder, rte
from experiments.cli import load_config

DEVICES = 8
STEPS = 20

PATHFINDER = {"model.embed_dim": 8, "model.kernel_size": 3, "model.seq_len": 4}
PATHFINDER |= {"data.train_count": 64, "data.validation_count": 16, "data.test_count": 16}
LANGUAGE = {"model.width": 16, "data.train_count": 64, "data.validation_count": 16}
RTE = {"encoder.width": 16, "encoder.heads": 2, "encoder.hidden": 16, "encoder.layers": 1}
RTE |= {"data.train_count": 64, "data.validation_count": 16, "data.test_count": 16}

TINY: dict[str, tuple[Any, dict[str, Any]]] = {
    "pathfinder": (pathfinder, PATHFINDER),
    "language": (language, LANGUAGE),
    "rte": (rte, RTE),
}
QUICK = [
    ("pathfinder", {"data": 2, "time": 2, "frequency": 2}, {}),
    ("language", {"data": 4, "fsdp": 2}, {}),
    ("rte", {"data": 4, "fsdp": 2}, {}),
]
SLOW = [
    ("pathfinder", {"data": 8}, {}),
    ("pathfinder", {"fsdp": 8}, {}),
    ("pathfinder", {"data": 2, "time": 4}, {"model.depth": 2}),
    ("pathfinder", {"frequency": 8}, {}),
    ("pathfinder", {"data": 2, "time": 2, "frequency": 2}, {"model.cssm_type": "gdn"}),
    ("pathfinder", {"data": 2, "time": 2, "frequency": 2}, {"model.cssm_type": "no_fft"}),
    ("pathfinder", {"data": 2, "time": 2, "frequency": 2}, {"model.cssm_type": "hgru_bi_stable"}),
    ("language", {"fsdp": 8}, {}),
    ("rte", {"data": 8}, {}),
]


@pytest.fixture(autouse=True)
def small_arrays_are_spread(monkeypatch):
    monkeypatch.setattr("common.train.sharding.SMALLEST", 8)


def losses(task: Any, config: Any, sizes: dict[str, int]) -> np.ndarray:
    """Returns the loss of each step from the initial state on."""
    parts = RunParts(task, config, make_mesh(sizes))
    sharding, found = parts.sharding, []
    with sharding.in_force():
        state = parts.initial_state()
        batches = training_batches(task.train_source, config.train.batch_size, config.seed)
        for _ in range(STEPS):
            state = parts.train_step(state, sharding.place(next(batches)))
            found.append(float(state.totals["loss"]))
        batches.close()
    return np.asarray(found)


def check(name: str, sizes: dict[str, int], fields: dict[str, Any], folder: Any) -> None:
    """Compares the losses on a mesh with those on one device."""
    module, tiny = TINY[name]
    overrides = {"train.steps": 60, "train.log_every": 1, "train.batch_size": 8}
    overrides |= {"optim.learning_rate": 1e-4, "optim.warmup_steps": 50, **tiny, **fields}
    if name != "language":
        overrides["data.cache"] = str(folder)
    config = load_config(f"{module.DEFAULT_CONFIG}:smoke", overrides)
    task = module.make_task(config)
    alone = losses(task, config, {"data": 1})
    assert np.ptp(alone) > 1e-3
    np.testing.assert_allclose(losses(task, config, sizes), alone, rtol=1e-5)


@pytest.mark.parametrize(("name", "sizes", "fields"), QUICK)
def test_eight_devices_learn_as_one(name, sizes, fields, tmp_path) -> None:
    check(name, sizes, fields, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sizes", "fields"), SLOW)
def test_eight_devices_learn_as_one_on_other_meshes(name, sizes, fields, tmp_path) -> None:
    check(name, sizes, fields, tmp_path)
