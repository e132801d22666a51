"""Vision and language together: an encoder of pictures, a decoder, a mechanism between them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from common.array_types import Array, Bool, Float, Int, PRNGKey, UInt8
from common.data.sort_of_clevr import COLOURS, IMAGE, SHAPES, WORDS
from common.errors import UserError
from common.injection import (
    GatedMLP,
    Injector,
    MllamaSizes,
    MultiHeadAttention,
    by_member,
    layer_names,
    mllama_decoder,
)
from experiments.injection_mechanisms import MECHANISMS, Mechanism, Setting, sharp_attention

CONVOLUTIONS = ((5, 2), (3, 2), (3, 2))
"""Sides of the kernels of the encoder's convolutions, and their strides."""


LONGEST = 4.0
"""Amplitude of the longest waves of the code of places."""
THINGS = 1 + len(COLOURS) * len(SHAPES)
"""What may stand at a place: nothing, or an object of some colour and shape."""


class Seen(NamedTuple):
    """What an encoder makes of pictures.

    Attributes:
        features: of every place of its map, row by row.
        names: logits of what stands there.
    """

    features: Float[Array, "b s c"]
    names: Float[Array, "b s things"]


class Answers(NamedTuple):
    """What a model makes of pictures and questions.

    Attributes:
        logits: each member's, of the token after each question.
        names: logits of what stands at every place.
    """

    logits: Float[Array, "m b q v"]
    names: Float[Array, "b s things"]


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


class SceneEncoder(nn.Module):
    """A small convolutional net, a code for each place of its map, and places that see each other.

    Each channel is normalised over the places of its picture. A norm over the channels of a place
    instead takes the size of what is there, by which circles are told from squares.

    Attributes:
        channels: of the three convolutions.
        width: of the features.
        block: lets places see each other, and ties what is there to where it is.
    """

    channels: tuple[int, int, int]
    width: int
    block: nn.Module

    @nn.compact
    def __call__(self, images: UInt8[Array, "b h w 3"]) -> Seen:
        """Returns the features of every place, row by row, and what they say stands there."""
        x = 1.0 - images.astype(jnp.float32) / 255.0  # white is nothing
        for number, (channels, (side, stride)) in enumerate(
            zip(self.channels, CONVOLUTIONS, strict=True)
        ):
            conv = nn.Conv(
                channels,
                (side, side),
                (stride, stride),
                kernel_init=nn.initializers.he_normal(),
                name=f"conv_{number}",
            )
            norm = nn.GroupNorm(None, 1, name=f"norm_{number}")
            x = nn.relu(norm(conv(x)))
        x = nn.Dense(self.width, name="out")(x)
        names = nn.Dense(THINGS, name="names")(nn.relu(x))
        x = x + self.param("positions", _cosines, x.shape[1:])[None]
        x = self.block(x.reshape(x.shape[0], -1, self.width))
        return Seen(x, names.reshape(x.shape[0], -1, THINGS))


class PlacesBlock(nn.Module):
    """x += attention(norm(x), norm(x)), then x += mlp(norm(x)), over the places of a map.

    Attributes:
        attention: of the places to each other.
        mlp: feed-forward net.
    """

    attention: MultiHeadAttention
    mlp: GatedMLP

    @nn.compact
    def __call__(self, x: Float[Array, "b s c"]) -> Float[Array, "b s c"]:
        """Returns the places with what they saw."""
        normed = nn.LayerNorm(name="attention_norm")(x)
        x = x + self.attention(normed, normed)
        return x + self.mlp(nn.LayerNorm(name="mlp_norm")(x))


def _cosines(key: PRNGKey, shape: tuple[int, int, int]) -> Float[Array, "h w c"]:
    """An initialiser: products of cosines over rows and columns, the longer the wave the larger.

    Long waves are what distances are made of: the first five give squared ones but for a factor.
    """
    del key
    height, width, channels = shape
    waves = sorted(np.ndindex(channels, channels), key=lambda pair: (sum(pair), pair))[1:]
    rows, columns = np.array(waves[:channels]).T
    y, x = ((np.arange(size) + 0.5) * np.pi / size for size in (height, width))
    products = np.cos(y[:, None, None] * rows) * np.cos(x[:, None] * columns)
    return jnp.asarray(LONGEST / (rows + columns) * products, jnp.float32)


def map_side(image_size: int) -> int:
    """Returns the number of rows, and of columns, of a `SceneEncoder`'s map."""
    for _, stride in CONVOLUTIONS:
        image_size = -(-image_size // stride)
    return image_size


class VisionLanguageModel(nn.Module):
    """Answers questions about pictures with the next token.

    Attributes:
        encoder: gives the features of a picture.
        connector: makes of them what the mechanisms see.
        injector: the decoder with the mechanisms before its layers.
        context: gives what the mechanisms are called with, from what they see and the text.
        image_tokens: number of tokens of the text that stand for the picture.
        members: copies of the text that the mechanisms tell apart.
        side: rows, and columns, of the encoder's map.
    """

    encoder: nn.Module
    connector: nn.Module
    injector: Injector
    context: Callable[[Array, Text], tuple[Any, ...]]
    image_tokens: int = 0
    members: int = 1
    side: int = 1

    def __call__(self, images: UInt8[Array, "b h w 3"], questions: Int[Array, "b q l"]) -> Answers:
        """Returns the answers and what the encoder names."""
        seen = self.encoder(images)
        vision = self.connector(seen.features)
        text = pack(questions, self.image_tokens)
        tokens, places, mask = (jnp.tile(x, (self.members, *(1,) * (x.ndim - 1))) for x in text)
        out = self.injector(
            tokens,
            vision,
            None,
            mask,
            places,
            context=self.context(vision, text),
        )
        logits = out.logits[:, self.image_tokens :]
        last = logits.reshape(-1, *questions.shape[1:], logits.shape[-1])[:, :, -1]
        return Answers(by_member(last, self.members), seen.names)


def make_injection_model(config: ConfigDict, image_size: int) -> VisionLanguageModel:
    """Builds the model of a config.

    Args:
        config: has mechanism (one of `MECHANISMS`), layers (numbers of those it stands before),
            channels (of the encoder's convolutions), encoder_heads and encoder_hidden (of what
            lets its places see each other), width, depth, heads and hidden (of the decoder), inner
            (width of what is hidden in the mechanism), tokens (that a resampler makes), members.
        image_size: height and width of the pictures, pixels.

    Raises:
        UserError: a value that cannot be used.
    """
    if config.mechanism not in MECHANISMS:
        raise UserError(
            f"model.mechanism is {config.mechanism!r}; choose one of {', '.join(MECHANISMS)}"
        )
    layers, channels = tuple(config.layers), tuple(config.channels)
    if not layers or not all(0 <= n < config.depth for n in layers):
        raise UserError(f"model.layers is {layers}; expected some of 0 to {config.depth - 1}")
    if len(channels) != len(CONVOLUTIONS):
        raise UserError(f"model.channels is {channels}; expected {len(CONVOLUTIONS)} numbers")
    side = map_side(image_size)
    fields = ("width", "heads", "inner", "tokens", "members")
    setting = Setting(layers, side, **{name: config[name] for name in fields})
    try:
        made = MECHANISMS[config.mechanism](setting)
        return _assemble(config, channels, made, setting)
    except ValueError as error:
        raise UserError(f"config.model: {error}") from error


def _assemble(
    config: ConfigDict, channels: tuple[int, ...], made: Mechanism, at: Setting
) -> VisionLanguageModel:
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
        SceneEncoder(
            (channels[0], channels[1], channels[2]),
            config.width,
            PlacesBlock(
                sharp_attention(config.encoder_heads, config.width // config.encoder_heads),
                GatedMLP(config.encoder_hidden),
            ),
        ),
        made.connector,
        Injector(mllama_decoder(sizes), made.before, places),
        made.context,
        made.image_tokens,
        made.members,
        at.side,
    )
