"""The models that are compared: what stands before or in one attention layer, or more layers.

| function | layers |
|---|---|
| `attn_attn` | attention, `depth` times |
| `conv_attn` | causal convolution of the embeddings, attention |
| `conv_keys`, `conv_qkv` | attention with causal convolutions of its keys, or of all three |
| `smeared_keys` | attention with keys mixed with the one before by one weight a head |
| `hybrid` | x + causal convolution, rotary attention, and MLPs if wanted; `depth` times |
| `leaky` | symmetric convolution of the embeddings, attention: reads the answer |

Attention is pre-norm and residual. Seed of the comparison: Conv-Attn (depthwise convolution of 5
taps, attention) against Attn-Attn (four attention layers).
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from convattn.convolutions import CausalConv, Smear, SymmetricConv
from convattn.layers import (
    AttentionLayer,
    ConvLayer,
    MLPLayer,
    NoRotation,
    ResidualConvLayer,
    RotaryPositions,
)
from convattn.model import LanguageModel, LearnedPositions, LinearHead, NoPositions, TiedHead

POSITIONS = ("rotary", "learned", "none")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What all variants share.

    Attributes:
        vocabulary: number of tokens.
        width: d.
        heads: attention heads of each layer.
        length: largest number of tokens of a sequence; matters to learned positions alone.
        positions: 'rotary' (queries and keys are turned), 'learned' (a vector is added) or 'none'.
        tied: whether the logits use the embedding's matrix.
        dtype: compute dtype.
    """

    vocabulary: int
    width: int
    heads: int
    length: int
    positions: str = "rotary"
    tied: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: a size below 1, a width that does not split, or unknown positions.
        """
        for name in ("vocabulary", "width", "heads", "length"):
            if (size := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {size}; expected 1 or more")
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}; expected a multiple of {self.heads} heads")
        if self.positions not in POSITIONS:
            raise ValueError(f"positions is {self.positions!r}; choose one of {POSITIONS}")
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise ValueError(
                f"width is {self.width}; rotary positions need heads of an even number of channels"
            )

    def conv(self, taps: int) -> CausalConv:
        """Returns a causal convolution of d channels."""
        return CausalConv(self.width, taps, self.dtype)

    def attention(
        self,
        query: nn.Module | None = None,
        key: nn.Module | None = None,
        value: nn.Module | None = None,
    ) -> AttentionLayer:
        """Returns an attention layer with mixers of queries, keys and values."""
        rotation = RotaryPositions() if self.positions == "rotary" else NoRotation()
        return AttentionLayer(self.width, self.heads, rotation, (query, key, value), self.dtype)

    def model(self, *layers: nn.Module) -> LanguageModel:
        """Returns the model that has these layers."""
        learned = self.positions == "learned"
        positions = LearnedPositions(self.width, self.length) if learned else NoPositions()
        head = TiedHead() if self.tied else LinearHead(self.vocabulary, self.width)
        return LanguageModel(self.vocabulary, self.width, positions, layers, head, self.dtype)


def attn_attn(sizes: Sizes, depth: int = 4) -> LanguageModel:
    """Attention layers alone."""
    _require_depth(depth)
    return sizes.model(*(sizes.attention() for _ in range(depth)))


def conv_attn(sizes: Sizes, taps: int = 5) -> LanguageModel:
    """A causal convolution of the embeddings, then one attention layer."""
    return sizes.model(ConvLayer(sizes.conv(taps)), sizes.attention())


def conv_keys(sizes: Sizes, taps: int = 5) -> LanguageModel:
    """One attention layer whose keys are convolved."""
    return sizes.model(sizes.attention(key=sizes.conv(taps)))


def conv_qkv(sizes: Sizes, taps: int = 5) -> LanguageModel:
    """One attention layer whose queries, keys and values are convolved (Primer; So et al. 2021)."""
    return sizes.model(sizes.attention(sizes.conv(taps), sizes.conv(taps), sizes.conv(taps)))


def smeared_keys(sizes: Sizes) -> LanguageModel:
    """One attention layer whose keys are mixed with the one before (Olsson et al. 2022)."""
    return sizes.model(sizes.attention(key=Smear(sizes.width, sizes.heads, sizes.dtype)))


def hybrid(sizes: Sizes, depth: int = 1, taps: int = 5, mlp: bool = False) -> LanguageModel:
    """Residual causal convolution, attention and, if wanted, an MLP; `depth` times."""
    _require_depth(depth)
    layers = []
    for _ in range(depth):
        layers += [ResidualConvLayer(sizes.conv(taps)), sizes.attention()]
        if mlp:
            layers.append(MLPLayer(sizes.width, sizes.dtype))
    return sizes.model(*layers)


def leaky(sizes: Sizes, taps: int = 5) -> LanguageModel:
    """`conv_attn` with a convolution that also sees the next (taps - 1) / 2 tokens."""
    return sizes.model(ConvLayer(SymmetricConv(sizes.width, taps, sizes.dtype)), sizes.attention())


def _require_depth(depth: int) -> None:
    if depth < 1:
        raise ValueError(f"depth is {depth}; expected 1 or more")
