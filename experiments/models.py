"""Models by name: the one place where a config's word becomes a module."""

from collections.abc import Callable, Mapping

from flax import linen as nn
from jax import numpy as jnp
from ml_collections import ConfigDict

import convattn
from common.errors import UserError
from cssm import SimpleCSSM
from cssm.baselines import ConvNet, HGRUCell, HGRUClassifier, ResNet, ViT
from cssm.readout import PooledReadout
from cssm.simple import ACTIVATIONS, DTYPES, POOLS, choose
from cssm.stem import ConvStem


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


LANGUAGE_MODELS: dict[str, Callable[..., convattn.LanguageModel]] = {
    "attn_attn": convattn.attn_attn,
    "conv_attn": convattn.conv_attn,
    "conv_keys": convattn.conv_keys,
    "conv_qkv": convattn.conv_qkv,
    "hybrid": convattn.hybrid,
    "leaky": convattn.leaky,
    "smeared_keys": convattn.smeared_keys,
}

SIZES = ("width", "heads", "positions", "tied")
"""Fields that all language models have; the others are arguments of the function."""


def make_model(config: ConfigDict) -> nn.Module:
    """Builds the model that `config.name` names from the other fields.

    Raises:
        UserError: an unknown name, or a value that the model refuses.
    """
    build = _look_up(MODELS, config)
    fields = {key: value for key, value in config.items() if key != "name"}
    try:
        return build(ConfigDict(fields))
    except ValueError as error:
        raise UserError(f"model.{error}") from error


def make_language_model(config: ConfigDict, vocabulary: int, length: int) -> convattn.LanguageModel:
    """Builds the language model that `config.name` names from the other fields.

    Args:
        config: `config.model`.
        vocabulary: number of tokens.
        length: largest number of tokens of a sequence.

    Raises:
        UserError: an unknown name, or a value that the model refuses.
    """
    build = _look_up(LANGUAGE_MODELS, config)
    own = {k: v for k, v in config.items() if k not in (*SIZES, "name", "dtype")}
    try:
        dtype = choose("dtype", config.dtype, DTYPES)
        common = {name: config[name] for name in SIZES}
        return build(convattn.Sizes(vocabulary, length=length, dtype=dtype, **common), **own)
    except ValueError as error:
        raise UserError(f"model.{error}") from error


def _look_up(models: Mapping[str, Callable], config: ConfigDict) -> Callable:
    if config.name not in models:
        raise UserError(f"model.name is {config.name!r}; choose one of {sorted(models)}")
    return models[config.name]
