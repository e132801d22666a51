"""Runs on several devices: what lies where, what is refused, and the numbers of one device."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from common.errors import UserError
from common.mesh import make_mesh
from common.train import Preempted, fit
from common.train.parts import RunParts
from common.train.sharding import SMALLEST, Sharding, check_axes
from tests.train.toy import At, NoProgress, ToyTask, assert_alike, curve, terminate, toy_config

DEVICES = 8


def test_minus_one_is_for_the_devices_that_are_left():
    assert dict(make_mesh({"data": -1}).shape) == {"data": 8, "fsdp": 1, "time": 1, "frequency": 1}
    shape = dict(make_mesh({"data": 2, "fsdp": -1, "time": 2}).shape)
    assert shape == {"data": 2, "fsdp": 2, "time": 2, "frequency": 1}
    assert list(make_mesh({"time": 2}).devices.flat) == jax.devices()[:2]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 3, "fsdp": 3}, r"config.mesh \(data 3 x fsdp 3\) asks for 9 devices, and"),
        ({"data": -1, "time": 3}, r"config.mesh: 3 devices \(time 3\) do not divide the 8 that"),
        ({"data": -1, "fsdp": -1}, "config.mesh.fsdp is -1, but so is config.mesh.data"),
        ({"data": 0}, "config.mesh.data is 0, expected 1 or more, or -1"),
        ({"tensor": 2}, "config.mesh.tensor: no such axis; expected data, fsdp, time, frequency"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(UserError, match=message):
        make_mesh(sizes)


def test_several_processes_use_all_of_their_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(
        UserError, match=r"config.mesh \(time 2\) asks for 2 devices, and there are 8"
    ):
        make_mesh({"time": 2})


def test_batches_that_the_devices_do_not_divide_are_refused():
    sharding = Sharding(make_mesh({"data": 4, "fsdp": 2}))
    sharding.check_batch(16, 2)
    with pytest.raises(UserError, match="batch_size is 12; expected a multiple of the 8 that"):
        sharding.check_batch(12, 1)
    with pytest.raises(UserError, match="batch_size is 24, taken in 2 parts; .* of the 16 that"):
        sharding.check_batch(24, 2)
    assert sharding.rounded_up(10) == 16


def test_axes_that_the_model_makes_no_use_of_are_refused():
    check_axes(make_mesh({"data": 2, "time": 4}), ("time",))
    with pytest.raises(UserError, match="config.mesh.frequency is 8, but this model is not spread"):
        check_axes(make_mesh({"frequency": 8}), ("time",))


def test_the_largest_axis_that_fits_goes_over_fsdp():
    sharding = Sharding(make_mesh({"data": 2, "fsdp": 4}))
    cases = {
        (SMALLEST // 8, 8): P("fsdp"),
        (64, 128): P(None, "fsdp"),
        (64, 127): P("fsdp"),
        (127, 129): P(),
        (64, 64): P(None, "fsdp"),
        (SMALLEST // 2,): P(),
    }
    for shape, expected in cases.items():
        found = sharding.of_state(jax.ShapeDtypeStruct(shape, np.float32))
        assert found.spec == expected


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The record of a run on one device."""
    workdir = tmp_path_factory.mktemp("alone")
    fit(ToyTask(), spread_config({"data": 1}), workdir, progress=NoProgress())
    return curve(workdir)


def spread_config(mesh, **train):
    config = toy_config(**{"steps": 20, "batch_size": 16, "accumulate": 2, **train})
    config.mesh = mesh
    return config


def test_parameters_and_optimizer_are_spread_over_fsdp(monkeypatch):
    monkeypatch.setattr("common.train.sharding.SMALLEST", 1)
    config = spread_config({"data": 4, "fsdp": 2})
    state = RunParts(ToyTask(), config, make_mesh(config.mesh)).initial_state()
    moments = state.opt_state[1][0].mu["head"]["kernel"]
    for array in (state.params["head"]["kernel"], moments):
        assert {shard.data.shape for shard in array.addressable_shards} == {(3, 1)}


def test_several_devices_give_the_numbers_of_one(alone, tmp_path, monkeypatch):
    """Also where the steps are taken in parts, and a run goes on on another number of devices."""
    monkeypatch.setattr("common.train.sharding.SMALLEST", 1)
    with pytest.raises(Preempted):
        stop = At(9, terminate)
        fit(ToyTask(), spread_config({"data": 4, "fsdp": 2}), tmp_path, progress=stop)
    fit(ToyTask(), spread_config({"data": 2, "fsdp": 2}), tmp_path, progress=NoProgress())
    assert_alike(curve(tmp_path), alone)
