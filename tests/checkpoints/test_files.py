"""Checkpoints keep every bit through every format, and the command line says what is wrong."""

import errno
import os
import pickle
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax.core import FrozenDict

from common.checkpoints import CheckpointManager, load_checkpoint, load_into, save_checkpoint
from common.checkpoints.__main__ import main
from common.checkpoints.files import FORMATS
from common.errors import DataError, UserError

GOLDEN = Path(__file__).parents[1] / "cssm" / "golden"


def content() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "params": {
            "block": {"kernel": rng.normal(size=(2, 3)).astype(np.float32), "é/b ~": np.ones(2)},
            "k" * 300: np.array([0x7FC00001], np.uint32).view(np.float32),
            "": np.ones(1, ml_dtypes.bfloat16),
            "%i1": np.array(5, np.int8),
            1: np.array([-0.0]),
            "none": {},
            "empty": np.zeros((0, 3), np.float16),
            "list": [np.arange(3), (np.ones(1, np.uint64), "x")],
        },
        "epoch": 19,
        "step": np.int64(7),
        "training_args": {
            "lr": 3e-4, "sizes": (1, 2), "resume": None, "bf16": True, "name": "ü\ud800",
            "zero": -0.0,
            "n": [2**70, float("inf"), struct.unpack("<d", b"\1\0\0\0\0\0\xf8\x7f")[0]],
            "set": {1, 2}, "frozen": frozenset("a"), "bytes": b"\xff", "complex": complex(1, -0.0),
        },
    }  # fmt: skip


def bits(value: Any) -> Any:
    """Returns what is equal only for values of the same types and bits."""
    if isinstance(value, dict):
        return [(key, bits(inner)) for key, inner in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [bits(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        return type(value), value.dtype, value.shape, value.tobytes()
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, complex):
        return struct.pack("<dd", value.real, value.imag)
    return type(value), value


@pytest.mark.parametrize("form", ["orbax", "pickle", "safetensors"])
def test_every_format_keeps_every_bit(tmp_path: Path, form: str) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    save_checkpoint(first, content(), form)
    assert bits(load_checkpoint(first)) == bits(content())
    save_checkpoint(second, load_checkpoint(first), "pickle")
    assert bits(load_checkpoint(second)) == bits(content())
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second"}
    with pytest.raises(UserError, match="first exists already"):
        save_checkpoint(first, content(), form)
    save_checkpoint(first, {"params": {}}, form, overwrite=True)
    assert load_checkpoint(first) == {"params": {}}
    assert {path.name for path in tmp_path.iterdir()} == {"first", "second"}


def test_pickles_have_the_names_of_numpy_1(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pkl", content(), "pickle")
    data = (tmp_path / "x.pkl").read_bytes()
    assert b"numpy._core" not in data
    assert bits(pickle.loads(data)) == bits(content())


def test_what_a_format_cannot_hold_is_said(tmp_path: Path) -> None:
    twins = {"params": {"a.b": np.ones(1), "a": {"b": np.ones(1)}}}
    with pytest.raises(UserError, match=r"keys with '\.' in them give two arrays the same name"):
        save_checkpoint(tmp_path / "x", twins, "safetensors")
    with pytest.raises(UserError, match="has no complex128"):
        save_checkpoint(tmp_path / "x", {"params": np.ones(1, complex)}, "safetensors")
    with pytest.raises(UserError, match="params is a object, which no checkpoint holds"):
        save_checkpoint(tmp_path / "x", {"params": object()}, "orbax")
    assert not list(tmp_path.iterdir())


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content(), 2))
    return tmp_path / "x.pkl"


def test_convert_there_and_back(tmp_path: Path, checkpoint: Path, capsys: Any) -> None:
    assert run("convert", checkpoint, tmp_path / "folder") == 0
    assert run("convert", tmp_path / "folder", tmp_path / "y.safetensors") == 0
    assert run("convert", tmp_path / "y.safetensors", tmp_path / "back", "--to=pickle") == 0
    assert bits(pickle.loads((tmp_path / "back").read_bytes())) == bits(content())
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}/folder: written as orbax",
        f"{tmp_path}/y.safetensors: written as safetensors",
        f"{tmp_path}/back: written as pickle",
    ]
    assert run("convert", checkpoint, tmp_path / "back", "--to=pickle") == 2
    assert "back exists already; it is not replaced unless --overwrite" in capsys.readouterr().err
    assert run("convert", checkpoint, tmp_path / "back", "--to=orbax", "--overwrite") == 0
    assert (tmp_path / "back").is_dir()


def test_inspect_describes(tmp_path: Path, checkpoint: Path, capsys: Any) -> None:
    assert run("inspect", checkpoint) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("x.pkl: pickle, 10 arrays, 17 numbers, 95 bytes")
    assert "  epoch = 19" in lines
    assert any("params/block/kernel  float32[2, 3] 24 bytes, min -0.5357 " in x for x in lines)
    assert any("float32[1] 4 bytes, 1 not finite" in line for line in lines)
    assert lines[-1] == "loads into: no model that is known here"
    digest = lines[-2]
    run("convert", checkpoint, tmp_path / "folder")
    run("inspect", tmp_path / "folder")
    assert digest in capsys.readouterr().out


def test_inspect_names_the_model(capsys: Any) -> None:
    (golden,) = list(GOLDEN.rglob("checkpoint*.pkl"))[:1]
    assert run("inspect", golden) == 0
    assert "loads into: SimpleCSSM(embed_dim=" in capsys.readouterr().out


def test_verify_finds_every_flipped_byte_of_the_numbers(tmp_path: Path, capsys: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 100), np.uint8)
    for form in ("orbax", "safetensors"):
        path = tmp_path / form
        save_checkpoint(path, {"params": {"noise": noise}, "epoch": 3}, form)
        assert run("verify", path) == 0
        assert capsys.readouterr().out == f"OK: {path}: 1 digests agree\n"
        files = [file for file in path.rglob("*") if file.is_file()] or [path]
        largest = max(files, key=lambda file: file.stat().st_size)
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 1
        largest.write_bytes(data)
        assert run("verify", path) == 1
        message = f"{form}.* damaged: .*noise: not the numbers saved"
        assert re.search(message, capsys.readouterr().err)
        with pytest.raises(DataError, match=message):
            load_checkpoint(path)


def test_verify_finds_a_changed_description(tmp_path: Path, capsys: Any) -> None:
    for form, name in (("orbax", "_CHECKPOINT_METADATA"), ("safetensors", "")):
        path = tmp_path / form
        save_checkpoint(path, {"params": {"a": np.ones(2)}, "epoch": 3}, form)
        file = path / name if name else path
        data = file.read_bytes()
        assert b'epoch\\", 3' in data or b'epoch\\\\\\", 3' in data
        file.write_bytes(data.replace(b'epoch\\", 3', b'epoch\\", 4'))
        assert run("verify", path) == 1
        assert "is not what was written" in capsys.readouterr().err


def test_verify_needs_something_to_verify(tmp_path: Path, checkpoint: Path, capsys: Any) -> None:
    assert run("verify", checkpoint) == 0
    assert "8 arrays are well-formed; this format carries no digests" in capsys.readouterr().out
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    assert run("verify", checkpoint) == 1
    assert run("verify", tmp_path / "none") == 2
    assert run("inspect", tmp_path) == 2
    assert "a folder without a checkpoint" in capsys.readouterr().err


def test_runs_are_exported(tmp_path: Path) -> None:
    params = {"dense": {"kernel": jnp.arange(6.0).reshape(2, 3)}}
    state = {"params": params, "opt_state": [params, None], "step": jnp.int32(4)}
    state["rng"] = jax.random.key(0)
    with CheckpointManager(tmp_path / "run" / "checkpoints", 2, 1, "accuracy") as manager:
        for step in (4, 12):
            notes = {"config": {"model": {"name": "x"}, "seed": 3}} if step == 12 else None
            manager.save(
                step, state | {"step": jnp.int32(step)}, {"accuracy": 1 / step}, notes=notes
            )
            manager.wait()
    for place, step in (("run", 12), ("run/checkpoints", 12), ("run/checkpoints/4", 4)):
        found = load_checkpoint(tmp_path / place)
        assert found.keys() == {"params", "step"} | ({"config"} if step == 12 else set())
        assert found["step"] == step
        assert found.get("config", {}).get("seed") == (3 if step == 12 else None)
        assert bits(found["params"]) == bits(jax.tree.map(np.asarray, params))
    assert run("convert", tmp_path / "run", tmp_path / "x.pkl") == 0
    assert bits(pickle.loads((tmp_path / "x.pkl").read_bytes())["step"]) == bits(12)


def test_folders_of_other_programs_are_read(tmp_path: Path, capsys: Any) -> None:
    state = {"params": {"a": np.arange(3.0)}, "step": np.int32(3), "opt_state": [np.ones(2), {}]}
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", state | {"batch_stats": None})
    found = load_checkpoint(tmp_path / "x")
    assert bits(found) == bits({"params": state["params"], "batch_stats": None, "step": 3})
    assert run("verify", tmp_path / "x") == 1
    assert "x: carries no digests; nothing to compare with" in capsys.readouterr().err
    metadata = tmp_path / "x" / "_CHECKPOINT_METADATA"
    metadata.write_text(metadata.read_text().replace("custom_metadata", "custom_metadatb"))
    assert run("convert", tmp_path / "x", tmp_path / "new") == 2
    assert "_CHECKPOINT_METADATA holds no digests" in capsys.readouterr().err


def test_the_command_ends_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "common.checkpoints", "inspect", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {tmp_path}/none: no such file or folder; expected a pickle, a safetensors file, "
        "or a folder of Orbax, Hugging Face or a training run\n"
    )


PATHS = {
    "none": "no such file or folder; expected a pickle, a safetensors file, or a folder of Orbax",
    "none/deeper": "no such file or folder",
    "file/below": "cannot be read: Not a directory",
    "link": "no such file or folder",
    "long" * 99: "cannot be read: File name too long",
    "folder": "a folder without a checkpoint; expected a pickle",
    "pipe": "no regular file; expected a pickle",
    "empty": "an empty file; expected a pickle",
    "file": "no checkpoint by its first byte; expected a pickle",
    "archive": "seems to be a zip archive, as torch.save and numpy.savez write; expected a pickle",
    "locked": "cannot be read: Permission denied",
}


@pytest.mark.parametrize("command", ["inspect", "verify", "convert"])
@pytest.mark.parametrize("name", PATHS)
def test_what_is_no_checkpoint_is_said(
    tmp_path: Path, capsys: Any, monkeypatch: Any, command: str, name: str
) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    for file, data in (("file", b"text"), ("archive", b"PK\3\4"), ("empty", b""), ("locked", b"")):
        (tmp_path / file).write_bytes(data)
    if name == "locked":  # no mode of a file keeps an administrator out
        monkeypatch.setattr(Path, "open", deny)
    assert run(command, tmp_path / name, *[tmp_path / "new"] * (command == "convert")) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {tmp_path / name}: {PATHS[name]}")
    assert said.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_written_is_said(tmp_path: Path, checkpoint: Path, capsys: Any) -> None:
    for form in FORMATS:
        assert run("convert", checkpoint, checkpoint / "below", f"--to={form}") == 2
        said = capsys.readouterr().err
        assert said == f"error: cannot write {checkpoint}/below: Not a directory\n"


def test_an_emptied_newest_step_is_not_passed_over(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "checkpoints" / "12").mkdir(parents=True)
    assert run("verify", tmp_path) == 1
    assert run("convert", tmp_path, tmp_path / "new") == 2
    message = "checkpoints/12 is damaged: _CHECKPOINT_METADATA is missing"
    assert capsys.readouterr().err.count(message) == 2


def deny(*_: Any) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


TEMPLATE = {"dense": {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32)}}
PARAMS = {"dense": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}


@pytest.mark.parametrize("form", ["orbax", "pickle", "safetensors"])
@pytest.mark.parametrize("whole", [{"params": PARAMS, "epoch": 3}, PARAMS], ids=["whole", "bare"])
def test_load_into_gives_the_templates_structure(tmp_path: Path, form: str, whole: Any) -> None:
    if form == "safetensors" and whole is PARAMS:
        whole = {"params": PARAMS}
    save_checkpoint(tmp_path / "x", whole, form)
    for template in (TEMPLATE, FrozenDict(TEMPLATE), jax.tree.map(jnp.asarray, PARAMS)):
        found = load_into(tmp_path / "x", template)
        assert jax.tree.structure(found) == jax.tree.structure(template)
        assert bits(found["dense"]["kernel"]) == bits(PARAMS["dense"]["kernel"])
    if "params" in whole:
        found = load_into(tmp_path / "x", {"params": TEMPLATE})
        assert bits(found) == bits({"params": PARAMS})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"dense": {}}, "dense/kernel is missing in the checkpoint"),
        ({"dense": {"kernel": np.ones((2, 3))}}, r"is float64\(2, 3\) in the .* float32\(2, 3\)"),
        ({"dense": {"kernel": np.ones((2, 3), np.int32)}}, r"is int32\(2, 3\) in the checkpoint"),
        ({"dense": {"kernel": np.ones((3, 2), np.float32)}}, r"is float32\(3, 2\) in the checkp"),
        (PARAMS | {"more": np.ones(1)}, "more is unknown to the model"),
        ({"dense": {"kernel": 1.5}}, "params/dense/kernel is a float; expected arrays"),
        ({"dense": "text"}, "params/dense is a str; expected arrays"),
        ({"dense": {1: np.ones(1), "1": np.ones(1)}}, "the same key as a number and as text"),
        ({"dense/kernel": PARAMS["dense"]["kernel"]}, "does not fit"),
    ],
)
def test_load_into_names_what_does_not_fit(tmp_path: Path, params: Any, message: str) -> None:
    save_checkpoint(tmp_path / "x", {"params": params}, "pickle")
    with pytest.raises(DataError, match=rf"/x: .*{message}"):
        load_into(tmp_path / "x", TEMPLATE)


def test_load_into_warns_of_what_is_not_finite(tmp_path: Path) -> None:
    broken = {"dense": {"kernel": np.full((2, 3), np.nan, np.float32)}}
    save_checkpoint(tmp_path / "x", {"params": broken}, "pickle")
    with pytest.warns(RuntimeWarning, match="/x: values that are not finite in dense/kernel"):
        found = load_into(tmp_path / "x", TEMPLATE)
    assert bits(found) == bits(broken)
