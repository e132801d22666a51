"""Where a config comes from: a Python file, or what a run has left in its folder."""

import importlib.util
import json
import re
import traceback
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from common.errors import UserError
from experiments.parsing import nearest


def split_variant(path: str) -> tuple[Path, str]:
    """Parts 'FILE.py:VARIANT' into file and variant, '' where there is none."""
    match = re.fullmatch(r"(.*\.py)(?::(.*))?", path)
    if not match:
        raise UserError(f"--config: expected FILE.py or FILE.py:VARIANT, got {path!r}")
    return Path(match[1]), match[2] or ""


def call_get_config(file: Path, variant: str) -> ConfigDict:
    """Runs a config file and gives what its get_config(variant) returns."""
    if not file.is_file():
        near = nearest(file.name, [other.name for other in file.parent.glob("*.py")])
        hint = f"the nearest is {str(file.parent / near)!r}" if near else "nor any other there"
        raise UserError(f"--config: no file {str(file)!r}; {hint}")
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{error.filename}:{error.lineno}: {error.msg}") from error
    except Exception as error:
        raise UserError(_described(error, file)) from error
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"{file}: no function get_config(variant); a config file needs one")
    try:
        config = module.get_config(variant)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{file}: variant {variant!r}: {error}") from error
    except Exception as error:
        raise UserError(_described(error, file)) from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{file}: get_config returned {type(config).__name__}, not a ConfigDict")
    return config


def _described(error: Exception, file: Path) -> str:
    """Names the last line of the file that the error went through, its type and its message."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file.absolute()]
    place = f"{file}:{lines[-1]}" if lines else str(file)
    return f"{place}: {type(error).__name__}: {error}"


def recorded_config(file: Path) -> ConfigDict:
    """Reads the config that a run has left in its folder."""
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot read it: {error}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{file}: expected the fields of a config, got {type(fields).__name__}")
    return ConfigDict(_tuples(fields))


def _tuples(value: Any) -> Any:
    """Turns the lists of a JSON document back into the tuples that they were."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
