import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.compiled import temporary_bytes
from common.errors import UserError
from common.train import fit, memory
from common.train.memory import format_bytes, measure_memory
from common.train.parts import RunParts, sample_batch
from common.train.profiling import TRACED, WARM_UP
from common.train.trace import Component, _nested, component_of
from tests.train.toy import NoProgress, ToyTask, curve, toy_config

FEW = WARM_UP + 1


class Listener(NoProgress):
    def __init__(self):
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """A run with a profile: its folder, what it said, and the record of one without."""
    workdir, plain = tmp_path_factory.mktemp("profiled"), tmp_path_factory.mktemp("plain")
    config, listener = toy_config(steps=WARM_UP + TRACED), Listener()
    fit(ToyTask(), config, workdir, progress=listener, profile=True)
    fit(ToyTask(), config, plain, progress=NoProgress())
    return workdir, listener.messages, curve(plain)


def test_a_profile_leaves_the_numbers_alone(profiled):
    workdir, _, plain = profiled
    assert curve(workdir) == plain


def test_the_trace_opens_in_tensorboard_and_perfetto(profiled):
    folder = profiled[0] / "profile" / "plugins" / "profile"
    (session,) = folder.iterdir()
    (file,) = session.glob("*.xplane.pb")
    planes = [plane.name for plane in jax.profiler.ProfileData.from_file(str(file)).planes]
    assert "/host:CPU" in planes
    with gzip.open(session / "perfetto_trace.json.gz") as stream:
        events = json.load(stream)["traceEvents"]
    steps = [event for event in events if event.get("name") == "train_step"]
    assert len(steps) == TRACED


def test_the_table_has_the_parts_of_a_step(profiled):
    workdir, messages, _ = profiled
    content = json.loads((workdir / "profile" / "components.json").read_text())
    parts = {part["name"]: part for part in content["components"]}
    assert {"loss", "optimizer"} <= set(parts)
    assert parts["loss"]["backward_ms"] > 0 and parts["optimizer"]["backward_ms"] == 0
    busy = sum(part["forward_ms"] + part["backward_ms"] for part in parts.values())
    assert 0 < busy < content["step_ms"] * (jax.device_count() + 1)
    (table,) = [text for text in messages if "forward ms" in text]
    assert "optimizer" in table and f"{content['step_ms']:.3g} ms" in table


def test_the_memory_is_told_before_the_first_step(profiled):
    workdir, messages, _ = profiled
    content = json.loads((workdir / "profile" / "memory.json").read_text())
    params = 4 * (4 * 3 + 3 * 2 + 2)
    assert content["parameters"] == params
    assert content["optimizer"] >= 2 * params  # Adam's two moments
    assert content["batch"] == 8 * (4 * 4 + 4)
    assert next(i for i, m in enumerate(messages) if m.startswith("memory of a step")) == 0


def test_too_few_steps_are_told_of(tmp_path):
    listener = Listener()
    fit(ToyTask(), toy_config(steps=FEW), tmp_path, progress=listener, profile=True)
    assert (
        f"no profile: it takes {WARM_UP + TRACED} steps, and {FEW} were made" in listener.messages
    )
    with pytest.raises(UserError, match="finished run, with no step to profile"):
        fit(ToyTask(), toy_config(steps=FEW), tmp_path, progress=listener, profile=True)


def test_the_largest_batch_fits_and_one_more_multiple_does_not(monkeypatch):
    state = RunParts(ToyTask(), toy_config()).initial_state()
    batch = sample_batch(ToyTask().train_source, 8)

    def step(state, batch):  # 400 bytes an example beside it, and a part that does not grow
        wide = jnp.sin(batch["x"].sum(1, keepdims=True) + jnp.arange(100.0)[None])
        return state, jax.lax.optimization_barrier(wide).sum() + jax.lax.sort(jnp.arange(999.0))[0]

    jitted = jax.jit(step)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1_000_000)
    report = measure_memory(jitted, state, batch, 8)

    def need(examples):
        shapes = {
            name: jax.ShapeDtypeStruct((examples, *x.shape[1:]), x.dtype)
            for name, x in batch.items()
        }
        temporary = temporary_bytes(jitted.lower(state, shapes).compile())
        used = sum(np.prod(x.shape) * x.dtype.itemsize for x in shapes.values())
        return temporary + used + memory.bytes_on_device(state)

    assert report.largest_batch % 8 == 0
    assert need(report.largest_batch) <= 900_000 < need(report.largest_batch + 3 * 8)


RUN = "jit(train_step)/jvp(Net)/Net._run"
BACK = "jit(train_step)/transpose(jvp(Net))/Net._run"


@pytest.mark.parametrize(
    "path, expected",
    [
        (f"{RUN}/stem/stem._stages/conv1/add", ("stem conv1", False)),
        (f"{BACK}/stem/stem._stages/conv1/while/body/closed_call/dot", ("stem conv1", True)),
        (f"{BACK}/stem/while/body/stem.advance/stem._stages/norm1/mul", ("stem norm1", True)),
        (f"{RUN}/cssm_0.advance/cssm_0.gates/B_A/exp", ("cssm_0 gates", False)),
        (f"{RUN}/cssm_0.advance/cssm_0.read_out/output_proj/jit(fft)/fft", ("cssm_0 fft", False)),
        (f"{BACK}/cssm_0.advance/scan/ffi_call", ("cssm_0 scan", True)),
        (f"{RUN}/readout/norm_pre/...c,cd->...d/dot_general", ("readout norm_pre", False)),
        (f"{RUN}/checkpoint/rematted_computation/stem/conv1/add", ("stem conv1", True)),
        ("jit(train_step)/jvp()/sub", ("loss", False)),
        ("jit(train_step)/transpose(jvp())/sub", ("loss", True)),
        ("jit(train_step)/optimizer/jit(clip)/max", ("optimizer", False)),
        ("jit(train_step)/is_finite", ("step", False)),
        ("", ("unnamed", False)),
    ],
)
def test_an_operation_belongs_to_a_component(path, expected):
    assert component_of(path) == expected


def test_an_operation_does_not_count_what_lies_in_it():
    events = [(0, 100, "while"), (10, 20, "a"), (15, 5, "b"), (40, 30, "a"), (200, 7, "c")]
    times: dict[str, float] = {}
    for name, own in _nested(events):
        times[name] = times.get(name, 0) + own
    assert times == {"while": 50, "a": 45, "b": 5, "c": 7}


def test_forward_and_backward_add_up():
    assert Component("stem", 1.5, 2.5).total_ms == 4.0


@pytest.mark.parametrize(
    "size, expected",
    [
        (512, "512 B"),
        (6_750_600, "6.75 MB"),
        (999.9e6, "1 GB"),
        (24e9, "24 GB"),
        (3e15, "3e+03 TB"),
    ],
)
def test_bytes_are_told_in_units(size, expected):
    assert format_bytes(size) == expected
