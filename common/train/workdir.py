"""The files of one run, each written whole or not at all."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from common.errors import UserError
from common.train.environment import describe_environment

UNTRACKED = ("mesh", "report")
"""Parts of the config that may change between runs in the same folder."""


class Workdir:
    """Names and guards the files of one run.

    Attributes:
        path: The folder.
        checkpoints: Folder of the checkpoints.
        tensorboard: Folder of the TensorBoard event files.
        profile: Folder of the profile, where one was asked for.
        metrics: The record of all metrics, one JSON object per line.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.profile = self.path / "profile"
        self.metrics = self.path / "metrics.jsonl"

    def claim(self, config: ConfigDict) -> None:
        """Records `config` in config.json, or checks that the run there has the same one.

        Raises:
            UserError: The folder cannot be written, or holds a run with another config.
        """
        file = self.path / "config.json"
        wanted = to_fields(config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to workdir {self.path}: {error.strerror}") from None
        if not file.exists():
            write_json(file, wanted)
        if changes := config_changes(read_json(file), wanted):
            raise UserError(
                f"{file} is of a run with another config: {'; '.join(changes)}; "
                "choose another --workdir, or set these back"
            )

    def require(self) -> None:
        """Checks that the folder is still the one of this run.

        Raises:
            UserError: It has vanished, or was replaced.
        """
        if not (self.path / "config.json").is_file():
            raise UserError(f"workdir {self.path} has vanished while the run was going on")

    def record_environment(
        self,
        step: int,
        damaged: Mapping[int, str] | None = None,
        command: Sequence[str] = (),
    ) -> None:
        """Writes environment.json, or adds to it what this session resumes with at `step`.

        Args:
            step: The session's first step is the one after it.
            damaged: What is wrong with each newer checkpoint that could not be used, by step.
            command: Command line of the session, where it has one.
        """
        file = self.path / "environment.json"
        now = describe_environment()
        if command:
            now["command"] = list(command)
        if step and file.exists():
            first = read_json(file)
            changed = {key: value for key, value in now.items() if first.get(key) != value}
            lost = {"damaged_checkpoints": dict(damaged)} if damaged else {}
            sessions = [*first.get("resumed", []), {"step": step, **lost, **changed}]
            now = first | {"resumed": sessions}
        write_json(file, now)

    def result(self) -> dict[str, Any] | None:
        """Returns the final numbers of a finished run, or None."""
        file = self.path / "result.json"
        return read_json(file) if file.exists() else None

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes result.json, which marks the run as finished."""
        write_json(self.path / "result.json", result)


def config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lists the keys whose values differ, as 'train.steps was 100, now 200'."""
    before, after = _flatten(old), _flatten(new)
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key} was {_show(before, key)}, now {_show(after, key)}"
        for key in keys
        if key.split(".")[0] not in UNTRACKED
        and (before.get(key) != after.get(key) or (key in before) != (key in after))
    ]


def to_fields(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields of a config as JSON gives them back."""
    return json.loads(to_json(config.to_dict()))


def to_json(value: Any) -> str:
    """Formats `value` as indented JSON; what JSON does not know becomes its text."""
    return json.dumps(value, indent=2, default=str) + "\n"


def write_json(file: Path, value: Any) -> None:
    """Writes `value` so that a reader, or a kill at any time, finds the old file or the new one."""
    replace_file(file, to_json(value))


def replace_file(file: Path, text: str) -> None:
    """Replaces `file` by `text` in one move, after the text is on disk.

    Raises:
        UserError: It cannot be written.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    with writing(file):
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)


@contextlib.contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turns what a full disk or a missing folder raises inside into one line.

    Raises:
        UserError: `file` could not be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {file}: {error.strerror or error}; the checkpoints are as they were, "
            "and the same command goes on from the newest"
        ) from None


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        UserError: The file is not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}); it was changed by hand") from None


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _show(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "absent"
