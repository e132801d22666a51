"""Models by name: the one place where a config's word becomes a module."""

from collections.abc import Callable

from flax import linen as nn
from jax import numpy as jnp
from ml_collections import ConfigDict

from common.errors import UserError
from cssm import SimpleCSSM
from cssm.baselines import ConvNet


def _simple_cssm(config: ConfigDict) -> nn.Module:
    return SimpleCSSM(**config)


def _conv_net(config: ConfigDict) -> nn.Module:
    return ConvNet(tuple(config.widths), dtype=jnp.dtype(config.dtype))


MODELS: dict[str, Callable[[ConfigDict], nn.Module]] = {
    "conv_net": _conv_net,
    "simple_cssm": _simple_cssm,
}


def make_model(config: ConfigDict) -> nn.Module:
    """Builds the model that `config.name` names from the other fields.

    Raises:
        UserError: an unknown name, or a value that the model refuses.
    """
    if config.name not in MODELS:
        raise UserError(f"model.name is {config.name!r}; choose one of {sorted(MODELS)}")
    fields = {key: value for key, value in config.items() if key != "name"}
    try:
        return MODELS[config.name](ConfigDict(fields))
    except ValueError as error:
        raise UserError(f"model.{error}") from error
