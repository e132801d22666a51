import hashlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import pytest

from common.data.pathfinder import PathfinderSettings, draw_images
from experiments.gpu import MISSING, kernels, pathfinder14, records, throughput
from experiments.gpu.bare import _Hollow, _read_ahead

ROOT = Path(__file__).parents[2]
ALLOWED = {"flax", "jax", "ml-collections", "ml-dtypes", "numpy", "optax", "orbax-checkpoint"}
ALLOWED |= {"protobuf", "scipy"}  # which those need
OTHER_NAMES = {"pillow": "PIL"}
BARE = """
import importlib.machinery, runpy, sys
hidden, find = set(sys.argv.pop(1).split(",")), importlib.machinery.PathFinder.find_spec
class Finder:
    find_distributions = importlib.machinery.PathFinder.find_distributions
    @staticmethod
    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else find(name, path, target)
sys.meta_path = [Finder if f is importlib.machinery.PathFinder else f for f in sys.meta_path]
"""


def hidden_packages():
    """All dependencies of the project but those that a machine with a GPU is sure to have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[><=]", requirement)[0] for requirement in project["dependencies"]}
    return {OTHER_NAMES.get(name, name.replace("-", "_")) for name in names - ALLOWED}


def run_bare(code, *arguments):
    """Runs code where those packages are not to be found."""
    command = [sys.executable, "-c", BARE + code, ",".join(sorted(hidden_packages())), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_nothing_is_missing_here_and_nothing_is_stood_in_for():
    assert MISSING == []
    assert not any(isinstance(module, _Hollow) for module in list(sys.modules.values()))


def test_all_is_imported_on_a_bare_machine():
    code = (
        "import experiments.gpu.kernels, experiments.gpu.throughput, experiments.gpu.pathfinder14\n"
    )
    code += "print(len(hidden & set(experiments.gpu.MISSING)), 'numba' in experiments.gpu.MISSING)"
    count, numba = run_bare(code).split()
    assert int(count) >= 8 and numba == "True"


@pytest.mark.slow
def test_images_are_the_same_without_compiled_loops():
    code = """
import experiments.gpu
from common.data.pathfinder import PathfinderSettings, draw_images
import hashlib
for layout in ("reference", "matched"):
    settings = PathfinderSettings(image_size=32, contour_length=3, window=75.0, padding=6.0,
        distractors=2, seed_distance=12.0, layout=layout)
    print(hashlib.sha256(draw_images(settings, 1, 0, 4).images.tobytes()).hexdigest())
"""
    found = run_bare(code).split()
    shape = {"image_size": 32, "contour_length": 3, "window": 75.0, "padding": 6.0}
    shape |= {"distractors": 2, "seed_distance": 12.0}
    for layout, digest in zip(("reference", "matched"), found, strict=True):
        images = draw_images(PathfinderSettings(layout=layout, **shape), 1, 0, 4).images
        assert hashlib.sha256(images.tobytes()).hexdigest() == digest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kernels", "throughput"])
def test_a_measurement_on_a_bare_machine_says_that_it_had_no_gpu(tmp_path, name):
    file = tmp_path / "record.json"
    out = run_bare(
        f"runpy.run_module('experiments.gpu.{name}', run_name='__main__')", f"--out={file}"
    )
    record = json.loads(file.read_text())
    assert record["status"].startswith("not yet run on a GPU") and record["status"] in out
    assert record["environment"]["device_platform"] == "cpu"


@pytest.mark.slow
def test_training_on_a_bare_machine_goes_on_where_it_stopped(tmp_path):
    code = "runpy.run_module('experiments.gpu.pathfinder14', run_name='__main__')"
    flags = [f"--workdir={tmp_path / 'run'}", f"--data={tmp_path / 'data'}"]
    stop = """
import experiments.gpu
from experiments.gpu import pathfinder14
from common.train import loop
log = loop._Run.log
def stopping(self, step, state):
    import os, signal
    os.kill(os.getpid(), signal.SIGTERM)
    return log(self, step, state)
loop._Run.log = stopping
sys.exit(pathfinder14.main())
"""
    assert "the same command goes on" in run_bare(stop, *flags)
    assert not (tmp_path / "run" / "record.json").exists()
    run_bare(code, *flags)
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["result"]["step"] == pathfinder14.SHRUNKEN_STEPS
    assert set(record["test"]) == {"step", "reference", "matched"}
    assert record["goals"] == {"public notebook": 0.885, "people": 0.89, "best public model": 0.908}
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["resumed"]


def test_a_roofline_is_the_longer_of_two_times():
    rates = {"float32": 1e12, "bfloat16": 4e12, "bytes": 1e9}
    bound = kernels.roofline(10.0, 2e9, 4e6, rates)
    assert bound["roofline_ms"] == 4.0 and bound["roofline_share"] == 0.4
    assert bound["gigabytes_per_second"] == pytest.approx(0.4)
    assert kernels.roofline(10.0, 8e9, 4e6, rates)["roofline_ms"] == 8.0
    assert kernels.roofline(10.0, 8e9, 1e6, rates, "bfloat16")["roofline_ms"] == 2.0


def test_what_reads_ahead_keeps_the_order_and_stops():
    read: list[int] = []

    def load(i):
        read.append(i)
        return i * i

    assert list(_read_ahead(load, range(3, 9), 2, 4)) == [9, 16, 25, 36, 49, 64]
    read.clear()
    numbers = _read_ahead(load, range(100), 2, 4)
    next(numbers)
    numbers.close()
    assert len(read) < 10


def test_an_error_while_reading_ahead_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(_read_ahead(lambda i: 1 // (3 - i), range(10), 2, 4))


def test_the_published_times_are_of_models_that_are_timed():
    assert {model for model, _ in throughput.PUBLISHED} < set(throughput.MODELS)
    assert "transformer" in throughput.MODELS


def test_the_machine_here_is_told(capsys, tmp_path):
    records.write_record(tmp_path / "a" / "record.json", rows=[1])
    record = json.loads((tmp_path / "a" / "record.json").read_text())
    assert record["rows"] == [1] and record["status"] == records.status()
    assert records.peak_bytes() is None and jax.default_backend() == "cpu"
    assert records.NOT_YET in capsys.readouterr().out


def test_the_config_is_that_of_the_public_setting(monkeypatch):
    monkeypatch.setattr(pathfinder14, "on_gpu", lambda: True)
    config = pathfinder14.base_config("reference", "data", 0)
    assert (config.data.contour_length, config.data.image_size) == (14, 128)
    assert (config.data.layout, config.train.batch_size) == ("reference", 256)
    assert pathfinder14.base_config("matched", "data", 3).data.seed == 3
