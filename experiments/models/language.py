"""Language models, by name."""

from collections.abc import Callable

from ml_collections import ConfigDict

import convattn
from common.errors import UserError
from cssm.simple import DTYPES, choose
from experiments.models.names import look_up

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


def make_language_model(config: ConfigDict, vocabulary: int, length: int) -> convattn.LanguageModel:
    """Builds the language model that `config.name` names from the other fields.

    Args:
        config: `config.model`.
        vocabulary: number of tokens.
        length: largest number of tokens of a sequence.

    Raises:
        UserError: an unknown name, or a value that the model refuses.
    """
    build = look_up(LANGUAGE_MODELS, config)
    own = {k: v for k, v in config.items() if k not in (*SIZES, "name", "dtype")}
    try:
        dtype = choose("dtype", config.dtype, DTYPES)
        common = {name: config[name] for name in SIZES}
        return build(convattn.Sizes(vocabulary, length=length, dtype=dtype, **common), **own)
    except ValueError as error:
        raise UserError(f"model.{error}") from error
