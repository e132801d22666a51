import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

import experiments
from common.errors import UserError
from common.train import Preempted
from experiments import cli

CONFIG = """
from ml_collections import ConfigDict, config_dict

def get_config(variant=""):
    if variant not in ("", "smoke"):
        raise ValueError("expected '' or 'smoke'")
    return ConfigDict({
        "seed": 0,
        "model": {"name": "cssm", "depth": 1, "shape": (2, 3), "bias": True},
        "optim": {"learning_rate": 1e-3, "limit": config_dict.placeholder(int), "milestones": [1]},
        "train": {"steps": 2 if variant else 100, "batch_size": 8},
    })
"""


@pytest.fixture
def config_file(tmp_path, monkeypatch):
    """A config file, in a folder of its own that is also the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def calls(config_file):
    """A command line whose modes record their calls instead of working."""
    made = SimpleNamespace(calls=[], raises=None)

    def record(mode):
        def call(config, workdir):
            made.calls.append((mode, config, workdir))
            if made.raises is not None:
                raise made.raises

        call.__doc__ = f"Explains {mode}.\n\nAt length."
        return call

    def main(*argv):
        return cli.run(
            {mode: record(mode) for mode in ("train", "eval", "report")},
            module="experiments.tiny",
            description="Tries things.",
            default_config=config_file,
            argv=argv,
        )

    made.main = main
    return made


BAD = {
    "misspelt group": (["--config.modl.depth=2"], ["config.modl.depth", "config.model.depth"]),
    "misspelt field": (["--config.train.stps=2"], ["config.train.stps", "config.train.steps"]),
    "misspelt top key": (["--config.sed=2"], ["config.sed", "config.seed"]),
    "missing group": (["--config.steps=2"], ["config.steps", "config.train.steps"]),
    "key without a name": (["--config.=2"], ["unknown key", "nearest"]),
    "group given a value": (
        ["--config.model=cssm"],
        ["config.model is a group", "config.model.bias"],
    ),
    "field taken for a group": (["--config.seed.x=1"], ["config.seed.x", "config.seed"]),
    "int given a fraction": (
        ["--config.train.steps=1.5"],
        ["config.train.steps", "integer", "1.5"],
    ),
    "int given nothing": (["--config.train.steps="], ["config.train.steps", "integer"]),
    "float given text": (["--config.optim.learning_rate=abc"], ["learning_rate", "number", "abc"]),
    "bool given text": (
        ["--config.model.bias=maybe"],
        ["config.model.bias", "true or false", "maybe"],
    ),
    "tuple given a number": (["--config.model.shape=3"], ["config.model.shape", "(2, 3)", "'3'"]),
    "tuple of other things": (["--config.model.shape=(1,'a')"], ["config.model.shape", "(2, 3)"]),
    "torn tuple": (["--config.model.shape=(1,"], ["config.model.shape", "(2, 3)"]),
    "placeholder given text": (
        ["--config.optim.limit=x"],
        ["config.optim.limit", "integer", "'x'"],
    ),
    "list": (["--config.optim.milestones=[2]"], ["config.optim.milestones", "config file"]),
    "bool with a space": (["--config.model.bias", "False"], ["--config.model.bias=VALUE"]),
    "stray argument": (["--config.seed=1", "False"], ["unexpected argument 'False'"]),
    "unknown flag": (["--wrkdir=x"], ["--wrkdir", "--workdir"]),
    "flag without config": (["--train.steps=3"], ["--train.steps", "--config.train.steps"]),
    "abbreviated flag": (["--work=x"], ["--work;", "--workdir"]),
    "unknown mode": (["--mode=evl"], ["--mode", "'evl'", "eval"]),
    "mode without value": (["--mode"], ["--mode", "expected one argument"]),
    "missing config": (["--config=tny.py"], ["'tny.py'", "tiny.py"]),
    "missing folder": (["--config=nowhere/tiny.py"], ["nowhere/tiny.py"]),
    "config of another kind": (["--config=tiny.yaml"], ["--config", "FILE.py", "tiny.yaml"]),
    "empty config": (["--config="], ["--config", "FILE.py"]),
    "unknown variant": (["--config=tiny.py:smke"], ["tiny.py", "'smke'", "'smoke'"]),
    "workdir is a file": (["--workdir=tiny.py"], ["--workdir", "tiny.py", "file"]),
    "workdir under a file": (["--workdir=tiny.py/run"], ["--workdir", "tiny.py/run"]),
    "empty workdir": (["--workdir="], ["--workdir"]),
    "nothing to report": (["--mode=report"], ["--workdir", "runs/tiny", "train first"]),
}


@pytest.mark.parametrize(("argv", "named"), BAD.values(), ids=BAD)
def test_mistake_ends_in_one_line(calls, capsys, argv, named):
    assert calls.main(*argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert [part for part in named if part not in err] == []
    assert calls.calls == [] and not Path("runs").exists()


BAD_FILES = {
    "syntax": ("def get_config(:\n", ["bad.py:1", "invalid syntax"]),
    "no get_config": ("config = 1\n", ["bad.py", "get_config"]),
    "failing import": ("x = 1\nimport no_such_module\n", ["bad.py:2", "no_such_module"]),
    "failing get_config": ("def get_config(v):\n  return {}['a']\n", ["bad.py:2", "KeyError: 'a'"]),
    "not a config": ("def get_config(v):\n  return {}\n", ["bad.py", "dict", "ConfigDict"]),
    "own mistake": (
        "from common.errors import UserError as E\ndef get_config(v):\n  raise E('one\\nline')\n",
        ["error: one line\n"],
    ),
}


@pytest.mark.parametrize(("text", "named"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_config_file(calls, capsys, text, named):
    Path("bad.py").write_text(text)
    assert calls.main("--config=bad.py") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert [part for part in named if part not in err] == []


def test_workdir_without_write_permission(calls, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert calls.main("--workdir=out") == 2
    assert capsys.readouterr().err == "error: --workdir: 'out' is not writable\n"


def test_help(calls, capsys):
    assert calls.main("--config=nothing.py", "--help") == 0
    out = capsys.readouterr().out
    assert all(f"  {mode:6}  Explains {mode}.\n" in out for mode in ("train", "eval", "report"))
    assert out.partition("examples:\n")[2].count("  python -m experiments.tiny --") == 3
    assert "At length" not in out and len(out.splitlines()) < 40


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("seed=-7", -7),
        ("train.steps=1_000", 1000),
        ("optim.learning_rate=1e-4", 1e-4),
        ("optim.learning_rate=1", 1.0),
        ("optim.limit=5", 5),
        ("model.bias=False", False),
        ("model.bias=true", True),
        ("model.name=a=b c", "a=b c"),
        ("model.shape=(4, 5, 6)", (4, 5, 6)),
        ("model.shape=4,5", (4, 5)),
    ],
)
def test_override(calls, override, value):
    assert calls.main(f"--config.{override}") == 0
    [(mode, config, _)] = calls.calls
    key = override.partition("=")[0]
    found = config
    for name in key.split("."):
        found = found[name]
    assert mode == "train" and found == value and type(found) is type(value)


def test_config_and_workdir(calls):
    assert calls.main() == 0
    assert calls.main("--config", "tiny.py:smoke", "--mode", "train") == 0
    assert (
        calls.main("--config=tiny.py", "--workdir=a/b", "--config.seed=1", "--config.seed=2") == 0
    )
    assert [call[2] for call in calls.calls] == [
        Path("runs/tiny"),
        Path("runs/tiny-smoke"),
        Path("a/b"),
    ]
    assert [call[1].train.steps for call in calls.calls] == [100, 2, 100]
    assert calls.calls[2][1].seed == 2 and Path("a/b").is_dir()
    with pytest.raises(AttributeError):
        calls.calls[0][1].model.width = 3


def test_later_modes_read_the_config_of_the_run(calls, capsys):
    recorded = cli.load_config("tiny.py:smoke", {"model.shape": (7,)})
    Path("out").mkdir()
    Path("out/config.json").write_text(recorded.to_json())
    assert calls.main("--workdir=out", "--mode=eval", "--config.seed=5") == 0
    [(mode, config, workdir)] = calls.calls
    assert (mode, workdir, config.seed) == ("eval", Path("out"), 5)
    assert config.model == recorded.model and config.train == recorded.train
    assert calls.main("--workdir=out", "--mode=eval", "--config.sed=5") == 2
    assert "out/config.json; the nearest is config.seed" in capsys.readouterr().err
    assert calls.main("--workdir=out", "--mode=eval", "--config=tiny.py") == 0
    assert calls.calls[1][1].train.steps == 100


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_torn_record_of_a_config(calls, capsys, text):
    Path("config.json").write_text(text)
    assert calls.main("--workdir=.", "--mode=eval") == 2
    assert capsys.readouterr().err.startswith("error: config.json: ")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_preempted(calls, capsys, number, status):
    calls.raises = Preempted(3, number)
    assert calls.main() == status
    assert "step 3" in capsys.readouterr().out


def test_errors_of_a_mode(calls, capsys):
    calls.raises = UserError("data: no space")
    assert calls.main() == 2
    assert capsys.readouterr().err == "error: data: no space\n"
    calls.raises = KeyboardInterrupt()
    assert calls.main() == 130
    calls.raises = RuntimeError("a defect")
    with pytest.raises(RuntimeError, match="a defect"):
        calls.main()


def test_lack_of_memory(calls, capsys):
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.jit(lambda: jnp.zeros(1 << 50))()
    for error in (MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: of 9 B"), caught.value):
        calls.raises = error
        assert calls.main() == 1
        said = capsys.readouterr().err
        assert said.startswith("error: out of memory (") and said.count("\n") == 1
        assert said.endswith("; lower config.train.batch_size (8)\n")


LIMITED = """
import resource, sys
from pathlib import Path
import jax.numpy as jnp
from experiments.faults import subject
import common.train, experiments.tasks.pathfinder

jnp.ones(1).block_until_ready()
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (1 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(subject.main())
"""


@pytest.mark.slow
def test_a_run_under_a_limit_of_memory(tmp_path):
    root = Path(experiments.__file__).parents[1]
    arguments = [f"--config={root}/experiments/configs/pathfinder.py:smoke", "--workdir=run"]
    arguments += [f"--config.data.{name}_count=40" for name in ("train", "validation", "test")]
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments, "--config.train.batch_size=30000"],
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    last = run.stderr.splitlines()[-1]
    assert last.startswith("error: out of memory (RESOURCE_EXHAUSTED: Out of memory allocating ")
    assert last.endswith(
        "; lower config.train.batch_size (30000), config.data.image_size (32), "
        "config.model.embed_dim (8), config.model.seq_len (4)"
    )
    assert run.returncode == 1 and "Traceback" not in run.stderr


def test_a_mode_of_one_step(calls, capsys, config_file):
    steps = []

    def again(config, workdir, step):
        """Makes it again."""
        steps.append(step)

    def main(*argv):
        modes = {"train": lambda config, workdir: None, "again": again}
        names = {"module": "tiny", "description": "Tries.", "default_config": config_file}
        return cli.run(modes, **names, argv=argv)

    Path("config.json").write_text(cli.load_config(config_file).to_json())
    assert main("--mode=again", "--workdir=.", "--step=12") == 0
    assert steps == [12]
    for argv in (["--mode=again"], ["--mode=again", "--step=x"], ["--step=3"]):
        assert main("--workdir=.", *argv) == 2
        assert capsys.readouterr().err.startswith("error: --step: --mode=")
    assert calls.main("--step=3") == 2
    assert "unknown flag --step" in capsys.readouterr().err
    assert main("--help") == 0
    assert "[--step=N]" in capsys.readouterr().out


def test_load_config(config_file):
    config = cli.load_config("tiny.py:smoke", {"train.steps": 10, "optim.learning_rate": 1})
    assert isinstance(config, ConfigDict) and config.is_locked
    assert (config.train.steps, config.optim.learning_rate) == (10, 1.0)
    assert cli.load_config(config_file, {"model.bias": "false"}).model.bias is False


@pytest.mark.parametrize(
    "overrides", [{"train.steps": 1.0}, {"train.steps": True}, {"model.shape": [1]}, {"seed": None}]
)
def test_load_config_refuses_other_types(config_file, overrides):
    with pytest.raises(UserError, match=f"config.{next(iter(overrides))}: expected"):
        cli.load_config(config_file, overrides)


ENTRY = """
import sys
from pathlib import Path
from experiments import cli

def train(config, workdir):
    "Trains."

if __name__ == "__main__":
    status = cli.run({"train": train}, module="entry", description="Tries things.",
                     default_config=Path(__file__).with_name("tiny.py"))
    assert "jax" not in sys.modules, "a mistake waits for the import of jax"
    sys.exit(status)
"""


def test_module_run(config_file):
    Path("entry.py").write_text(ENTRY)
    root = Path(experiments.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-m", "entry", "--config.train.step=3"],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    near = "the nearest is config.train.steps"
    assert run.stderr == f"error: unknown key config.train.step in {config_file}; {near}\n"
    assert (run.returncode, run.stdout) == (2, "")


def test_a_profile_is_for_the_modes_that_make_steps(config_file, capsys):
    found = []

    def train(config, workdir, profile=False):
        """Trains."""
        found.append(profile)

    def report(config, workdir):
        """Reports."""

    def main(*argv):
        modes = {"train": train, "report": report}
        texts = {"module": "experiments.tiny", "description": "Tries things."}
        return cli.run(modes, default_config=config_file, argv=argv, **texts)

    assert main("--profile", "--workdir=run") == 0 and main("--workdir=run") == 0
    assert found == [True, False]
    (Path("run") / "config.json").write_text("{}")
    assert main("--mode=report", "--workdir=run", "--profile") == 2
    assert "--profile: --mode=report makes no steps to profile" in capsys.readouterr().err
    place = ("--coordinator=localhost:1", "--processes=2", "--process=0")
    assert main("--distributed", *place, "--profile", "--workdir=run") == 2
    assert "--profile: for a single process" in capsys.readouterr().err
