"""Vision and language together: features of pictures, a decoder, a mechanism between them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from common.array_types import Array, Bool, Float, Int
from common.data.sort_of_clevr import IMAGE, WORDS
from common.errors import UserError
from common.injection import (
    Injector,
    MllamaSizes,
    by_member,
    layer_names,
    mllama_decoder,
)
from experiments.models.mechanisms import MECHANISMS, Mechanism, Setting


class Text(NamedTuple):
    """Several questions about one picture in one row, none of which sees another.

    Attributes:
        tokens: image tokens first, if there are any, then one question after the other.
        places: position of each; every question stands as if it came first after the image.
        mask: which tokens a token may see, of those up to itself.
    """

    tokens: Int[Array, "b t"]
    places: Int[Array, "b t"]
    mask: Bool[Array, "b t t"]


def pack(questions: Int[Array, "b q l"], image_tokens: int) -> Text:
    """Puts questions in one row after `image_tokens` tokens for the image.

    A picture's tokens are read once for all its questions, each of which sees them and itself.
    """
    batch, count, length = questions.shape
    image = jnp.full((batch, image_tokens), IMAGE, questions.dtype)
    tokens = jnp.concatenate([image, questions.reshape(batch, -1)], axis=1)
    owner = np.r_[np.full(image_tokens, -1), np.repeat(np.arange(count), length)]
    places = np.r_[np.arange(image_tokens), image_tokens + np.tile(np.arange(length), count)]
    mask = (owner == -1)[None] | (owner[:, None] == owner[None])
    return Text(
        tokens,
        jnp.broadcast_to(places[None], tokens.shape),
        jnp.broadcast_to(mask[None], (batch, *mask.shape)),
    )


class VisionLanguageModel(nn.Module):
    """Answers questions about pictures with the next token.

    Attributes:
        connector: makes of a picture's features what the mechanisms see.
        injector: the decoder with the mechanisms before its layers.
        context: gives what the mechanisms are called with, from what they see and the text.
        image_tokens: number of tokens of the text that stand for the picture.
        members: copies of the text that the mechanisms tell apart.
        side: rows, and columns, of the map that the features are of.
        width: channels of the features.
    """

    connector: nn.Module
    injector: Injector
    context: Callable[[Array, Text], tuple[Any, ...]]
    image_tokens: int = 0
    members: int = 1
    side: int = 1
    width: int = 1

    def __call__(
        self, features: Float[Array, "b s c"], questions: Int[Array, "b q l"]
    ) -> Float[Array, "m b q v"]:
        """Returns each member's logits of the token after each question."""
        vision = self.connector(features)
        text = pack(questions, self.image_tokens)
        tokens, places, mask = (jnp.tile(x, (self.members, *(1,) * (x.ndim - 1))) for x in text)
        context = self.context(vision, text)
        out = self.injector(tokens, vision, None, mask, places, context=context)
        logits = out.logits[:, self.image_tokens :]
        last = logits.reshape(-1, *questions.shape[1:], logits.shape[-1])[:, :, -1]
        return by_member(last, self.members)


def make_injection_model(config: ConfigDict, side: int) -> VisionLanguageModel:
    """Builds the model of a config.

    Args:
        config: has mechanism (one of `MECHANISMS`), layers (numbers of those it stands before),
            width, depth, heads and hidden (of the decoder), inner (width of what is hidden in the
            mechanism), tokens (that a resampler makes), members.
        side: rows, and columns, of the map that the features are of.

    Raises:
        UserError: a value that cannot be used.
    """
    if config.mechanism not in MECHANISMS:
        raise UserError(
            f"model.mechanism is {config.mechanism!r}; choose one of {', '.join(MECHANISMS)}"
        )
    layers = tuple(config.layers)
    if not layers or not all(0 <= n < config.depth for n in layers):
        raise UserError(f"model.layers is {layers}; expected some of 0 to {config.depth - 1}")
    fields = ("width", "heads", "inner", "tokens", "members")
    setting = Setting(layers, side, **{name: config[name] for name in fields})
    try:
        return _assemble(config, MECHANISMS[config.mechanism](setting), setting)
    except ValueError as error:
        raise UserError(f"config.model: {error}") from error


def _assemble(config: ConfigDict, made: Mechanism, at: Setting) -> VisionLanguageModel:
    sizes = MllamaSizes(
        vocabulary=len(WORDS),
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        groups=config.heads,
        hidden=config.hidden,
        cross_layers=at.layers if made.is_layer else (),
    )
    places = layer_names(at.layers[: len(made.before)])
    return VisionLanguageModel(
        made.connector,
        Injector(mllama_decoder(sizes), made.before, places),
        made.context,
        made.image_tokens,
        made.members,
        at.side,
        at.width,
    )
