"""How a config names a model."""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from common.errors import UserError


def look_up(models: Mapping[str, Callable], config: ConfigDict) -> Callable:
    """Returns what builds the model that `config.name` names.

    Raises:
        UserError: there is none of that name.
    """
    if config.name not in models:
        raise UserError(f"model.name is {config.name!r}; choose one of {sorted(models)}")
    return models[config.name]
