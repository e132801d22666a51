"""Choices after the colon of a config: 'model=conv_attn,size=smoke', or the value alone."""

from collections.abc import Mapping, Sequence

from common.errors import UserError
from experiments.parsing import nearest


def read_choices(variant: str, choices: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Returns one value for each choice; the first where nothing is said.

    A value may stand without its name where only one choice has it: 'smoke' is 'size=smoke'.

    Args:
        variant: what follows the colon.
        choices: by name, the values; the first is the default.

    Raises:
        UserError: an unknown name or value, or a choice made twice.
    """
    chosen: dict[str, str] = {}
    for part in filter(None, variant.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            name, value = _owner(part, choices), part
        if name not in choices:
            raise UserError(f"unknown choice {name!r}; choose {', '.join(choices)}")
        if value not in choices[name]:
            raise UserError(
                f"{name} is {value!r}; the nearest is {nearest(value, choices[name])} "
                f"(of {', '.join(choices[name])})"
            )
        if name in chosen:
            raise UserError(f"{name} is chosen twice, as {chosen[name]!r} and {value!r}")
        chosen[name] = value
    return {name: chosen.get(name, values[0]) for name, values in choices.items()}


def _owner(value: str, choices: Mapping[str, Sequence[str]]) -> str:
    owners = [name for name, values in choices.items() if value in values]
    if len(owners) == 1:
        return owners[0]
    known = [value for values in choices.values() for value in values]
    raise UserError(
        f"variant {value!r} is unknown; the nearest is {nearest(value, known)}; "
        f"write {', '.join(f'{name}=...' for name in choices)}"
    )
