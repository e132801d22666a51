import json
import os
import signal
import subprocess
import sys
import textwrap
import zlib
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

from common.train import compilation
from common.train.compilation import CompilationCache, is_whole, use_cache
from common.train.startup import Startup


def names(folder):
    return {path.name for path in folder.glob("*-cache")}


def write(cache, name, content=b"program"):
    (cache.own / f"{name}-cache").write_bytes(zlib.compress(content))


def test_a_process_reads_what_others_have_shared(tmp_path):
    first, second = CompilationCache(tmp_path), CompilationCache(tmp_path)
    write(first, "a")
    assert names(second.own) == names(CompilationCache(tmp_path).own) == set()
    first.close()
    third = CompilationCache(tmp_path)
    assert names(third.own) == {"a-cache"} and names(second.own) == set()
    assert zlib.decompress((third.own / "a-cache").read_bytes()) == b"program"


def test_torn_entries_are_not_shared(tmp_path):
    cache = CompilationCache(tmp_path)
    write(cache, "whole", os.urandom(1000))
    content = (cache.own / "whole-cache").read_bytes()
    (cache.own / "torn-cache").write_bytes(content[:-1])
    (cache.own / "empty-cache").write_bytes(b"")
    (cache.own / "flipped-cache").write_bytes(content[:500] + b"\0\1" + content[502:])
    cache.close()
    assert names(cache.entries) == {"whole-cache"}
    assert not is_whole(b"\x28\xb5\x2f\xfd" + content)


def test_the_first_of_two_that_write_the_same_entry_is_kept(tmp_path):
    caches = [CompilationCache(tmp_path) for _ in range(4)]
    for i, cache in enumerate(caches):
        write(cache, "same", b"%d" % i)
    with ThreadPoolExecutor() as pool:
        list(pool.map(CompilationCache.close, caches))
    (entry,) = caches[0].entries.iterdir()
    assert zlib.decompress(entry.read_bytes()) in (b"0", b"1", b"2", b"3")


def test_what_a_dead_process_leaves_is_removed_and_a_living_one_keeps_its_own(tmp_path):
    living, dead = CompilationCache(tmp_path), CompilationCache(tmp_path)
    (dead.own / "torn-cache").write_bytes(b"half")
    os.close(dead._lock)  # as the system does
    CompilationCache(tmp_path).close()
    assert living.own.is_dir() and not dead.own.exists()
    assert names(living.entries) == set()


@pytest.mark.slow
def test_a_kill_leaves_nothing_that_another_process_reads(tmp_path):
    code = f"""
    import os, signal
    from pathlib import Path
    from common.train.compilation import CompilationCache
    cache = CompilationCache(Path({str(tmp_path)!r}))
    (cache.own / "torn-cache").write_bytes(b"half")
    print(cache.own, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=os.getcwd())
    assert done.returncode == -signal.SIGKILL
    assert os.path.isdir(done.stdout.strip())
    cache = CompilationCache(tmp_path)
    assert not os.path.exists(done.stdout.strip())
    assert names(cache.own) == names(cache.entries) == set()


def test_the_oldest_entries_go(tmp_path, monkeypatch):
    cache = CompilationCache(tmp_path)
    for age, name in enumerate("abcd"):
        write(cache, name, os.urandom(1000))
        os.utime(cache.own / f"{name}-cache", (1000 - age, 1000 - age))
    monkeypatch.setattr(compilation, "LIMIT", 2500)
    cache.share()
    assert names(cache.entries) == {"a-cache", "b-cache"}


def test_tests_have_no_cache():
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "" and use_cache() is None


@pytest.mark.parametrize("value", ["", "/somewhere"])
def test_the_variable_goes_first(monkeypatch, value):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", value)
    assert use_cache() is None


def test_the_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compilation.user_folder() == tmp_path / "cssm-lab" / "jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, as the specification has it
    monkeypatch.setenv("HOME", "/users/her")
    assert str(compilation.user_folder()) == "/users/her/.cache/cssm-lab/jax"


def test_another_number_of_cores_is_another_machine(monkeypatch):
    here = compilation.machine()
    compilation.machine.cache_clear()
    monkeypatch.setattr(compilation, "available_cores", lambda: 77)
    assert compilation.machine() != here
    compilation.machine.cache_clear()


RUN = """
import json, sys
import jax, jax.numpy as jnp
from common.train import Startup, use_cache
cache = use_cache()
startup = Startup()
step = jax.jit(lambda x: jax.lax.fori_loop(0, 9, lambda i, x: jnp.sin(x @ x.T), x).sum())
value = step(jnp.arange(256.0).reshape(16, 16) / 256)
startup.first_step_done()
print(json.dumps({"value": float(value).hex(), **startup.timing()}))
"""


def run(cache_home, **environment):
    given = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment = given | {"XDG_CACHE_HOME": str(cache_home)} | environment
    done = subprocess.run(
        [sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_cache_spares_compilations_and_changes_no_bit(tmp_path):
    off = run(tmp_path, JAX_COMPILATION_CACHE_DIR="")
    assert off["programs_compiled"] > 0 and not list(tmp_path.iterdir())
    cold, warm = run(tmp_path), run(tmp_path)
    assert off["value"] == cold["value"] == warm["value"]
    assert cold["programs_compiled"] == warm["programs_read"] == off["programs_compiled"]
    assert warm["programs_compiled"] == cold["programs_read"] == 0


@pytest.mark.slow
def test_runs_at_the_same_time_share_a_cache(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        values = {found["value"] for found in pool.map(run, [tmp_path] * 3)}
    assert len(values) == 1 and run(tmp_path)["programs_compiled"] == 0


def test_the_way_to_the_first_step_leaves_out_the_data():
    startup = Startup()
    assert startup.timing() == {}
    with startup.data():
        jax.jit(lambda x: x + 17.0)(1.0)
    said = startup.first_step_done()
    timing = startup.timing()
    assert timing["data_seconds"] > timing["first_step_seconds"] >= 0
    assert timing["programs_compiled"] == 1 and timing["programs_read"] == 0
    assert "compiled 1 programs, 0 came from the cache" in said
