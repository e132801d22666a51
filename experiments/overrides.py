"""Fields of a config that are set by their dotted keys, from text or from values."""

import ast
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from common.errors import UserError
from experiments.parsing import nearest

_EXPECTED = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    tuple: "a tuple such as (1, 2)",
}


def override(config: ConfigDict, overrides: Mapping[str, Any], source: str) -> None:
    """Sets fields by their dotted keys; source is what an error names as the config's origin."""
    fields = fields_of(config)
    for key, given in overrides.items():
        if key in fields:
            parent, name = fields[key]
            parent[name] = _converted(key, given, parent.get_type(name), parent[name])
            continue
        members = [field for field in fields if field.startswith(f"{key}.")]
        if members:
            raise UserError(
                f"config.{key} is a group; set one field of it, e.g. config.{members[0]}"
            )
        near = nearest(key, fields)
        raise UserError(f"unknown key config.{key} in {source}; the nearest is config.{near}")


def fields_of(config: ConfigDict, prefix: str = "") -> dict[str, tuple[ConfigDict, str]]:
    """Gives for each dotted key the ConfigDict that holds the field and the field's name in it."""
    fields = {}
    for name in config:
        if issubclass(config.get_type(name), ConfigDict):
            fields |= fields_of(config[name], f"{prefix}{name}.")
        else:
            fields[prefix + name] = (config, name)
    return fields


def _converted(key: str, given: Any, kind: type, current: Any) -> Any:
    """Turns an override into a value of the field's type."""
    if kind not in _EXPECTED:
        raise UserError(f"config.{key} holds {kind.__name__}, which only the config file can set")
    try:
        return _cast(given, kind, current)
    except (ValueError, TypeError, KeyError, SyntaxError) as error:
        expected = _EXPECTED[kind]
        if kind is tuple and current:
            expected = f"a tuple like {current!r}"
        raise UserError(f"config.{key}: expected {expected}, got {given!r}") from error


def _cast(given: Any, kind: type, current: Any) -> Any:
    """Gives the value as the type asked for, or raises; a string is read, an int may be a float."""
    value = _parse(given, kind) if isinstance(given, str) else given
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError
    if isinstance(value, tuple) and current:
        return tuple(_cast(item, type(current[0]), None) for item in value)
    return value


def _parse(text: str, kind: type) -> Any:
    if kind is bool:
        return {"true": True, "false": False}[text.lower()]
    return ast.literal_eval(text) if kind is tuple else kind(text)
