"""Sets the tests up: on the CPU with several devices, offline, and strict about ranks."""

import gc
import os
import signal

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = ""  # no cache of the user's, nor in what tests start
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from common import mesh
from tests.compilation import compile_quickly

CACHE = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}

compile_quickly()
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# A program that a shell starts with & ignores interrupts, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def frozen_garbage():
    """Spares the garbage collector what JAX keeps of compiled programs, file after file."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def devices_of_runs(request):
    """Lets runs have one device, as most tests look at other things.

    A module whose runs are spread has DEVICES = 8.
    """
    devices = jax.devices()[: getattr(request.module, "DEVICES", 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mesh, "available_devices", lambda: devices)
        yield


@pytest.fixture(scope="session")
def compilation_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def cached_compilation(compilation_folder):
    """Compiles each program once, where tests make the same ones again and again."""
    settings = CACHE | {"jax_compilation_cache_dir": str(compilation_folder)}
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
