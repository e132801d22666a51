"""ConvAttn: causal convolutions before attention, against attention alone."""

from convattn.generate import generate, prefix_logits, streamed_logits
from convattn.model import LanguageModel, LanguageState
from convattn.variants import (
    Sizes,
    attn_attn,
    conv_attn,
    conv_keys,
    conv_qkv,
    hybrid,
    leaky,
    smeared_keys,
)

__all__ = [
    "LanguageModel",
    "LanguageState",
    "Sizes",
    "attn_attn",
    "conv_attn",
    "conv_keys",
    "conv_qkv",
    "generate",
    "hybrid",
    "leaky",
    "prefix_logits",
    "smeared_keys",
    "streamed_logits",
]
