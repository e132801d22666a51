"""Models that classify images or videos, by name."""

from collections.abc import Callable

from flax import linen as nn
from jax import numpy as jnp
from ml_collections import ConfigDict

from common.errors import UserError
from cssm import SimpleCSSM
from cssm.baselines import ConvNet, HGRUCell, HGRUClassifier, ResNet, ViT
from cssm.readout import PooledReadout
from cssm.simple import ACTIVATIONS, DTYPES, POOLS, choose
from cssm.stem import ConvStem
from experiments.models.names import look_up


def _simple_cssm(config: ConfigDict) -> nn.Module:
    return SimpleCSSM(**config)


def _conv_net(config: ConfigDict) -> nn.Module:
    return ConvNet(tuple(config.widths), dtype=jnp.dtype(config.dtype))


def _hgru(config: ConfigDict) -> nn.Module:
    """Builds the hGRU between the stem and the readout that the spectral blocks have."""
    activation = choose("act", config.act, ACTIVATIONS)
    dtype = choose("dtype", config.dtype, DTYPES)
    return HGRUClassifier(
        ConvStem(config.embed_dim, activation, dtype),
        HGRUCell(config.embed_dim, config.kernel_size, dtype),
        PooledReadout(2, activation, choose("pool", config.pool, POOLS), dtype),
        config.seq_len,
    )


def _vit(config: ConfigDict) -> nn.Module:
    dtype = choose("dtype", config.dtype, DTYPES)
    return ViT(config.width, config.heads, config.patch, config.depth, dtype=dtype)


def _resnet(config: ConfigDict) -> nn.Module:
    dtype = choose("dtype", config.dtype, DTYPES)
    return ResNet(tuple(config.widths), config.blocks, dtype=dtype)


MODELS: dict[str, Callable[[ConfigDict], nn.Module]] = {
    "conv_net": _conv_net,
    "hgru": _hgru,
    "resnet": _resnet,
    "simple_cssm": _simple_cssm,
    "vit": _vit,
}


def make_model(config: ConfigDict) -> nn.Module:
    """Builds the model that `config.name` names from the other fields.

    Raises:
        UserError: an unknown name, or a value that the model refuses.
    """
    build = look_up(MODELS, config)
    fields = {key: value for key, value in config.items() if key != "name"}
    try:
        return build(ConfigDict(fields))
    except ValueError as error:
        raise UserError(f"model.{error}") from error
