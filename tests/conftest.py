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

CACHE = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}

jax.config.update("jax_num_cpu_devices", 4)
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
def quick_compilation(request):
    """Compiles without optimisation, as tests compile much and compute little.

    A module that looks at what the compiler makes of a kernel has OPTIMISED = True.
    """
    quick = not getattr(request.module, "OPTIMISED", False)
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


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
