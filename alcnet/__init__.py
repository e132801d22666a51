"""ALCNet: an encoder whose attention maps are read by a convolutional net."""

from alcnet import lora
from alcnet.attention_cnn import AttentionCNN, MapBlock, make_attention_cnn
from alcnet.attention_maps import (
    EqualRegions,
    Regions,
    SentenceRegions,
    TopLeft,
    all_seen,
    pair_mask,
    pool_maps,
    standardise,
    token_regions,
)
from alcnet.dropout import Dropout
from alcnet.encoder import (
    CountTokens,
    Embeddings,
    Encoder,
    EncoderLayer,
    EncoderOutput,
    Pooler,
    count_from_zero,
)
from alcnet.film_generator import FilmGenerator, StatisticsBranch
from alcnet.fusion import ConcatFusion, GatedFusion
from alcnet.hf_weights import find_folder, load_encoder
from alcnet.model import ALCNet, Decision, Reading
from alcnet.perplexity import PERPLEXITY, PseudoPerplexity
from alcnet.pooling import LastLayer, WeightedLayers, first_token, mean_of_tokens
from alcnet.statistics import (
    detached,
    head_statistics,
    plain_statistics,
    relative_statistics,
    statistic_names,
)
from alcnet.word_head import NoWordHead, WordHead, load_word_head

__all__ = [
    "PERPLEXITY",
    "ALCNet",
    "AttentionCNN",
    "ConcatFusion",
    "CountTokens",
    "Decision",
    "Dropout",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "EncoderOutput",
    "EqualRegions",
    "FilmGenerator",
    "GatedFusion",
    "LastLayer",
    "MapBlock",
    "NoWordHead",
    "Pooler",
    "PseudoPerplexity",
    "Reading",
    "Regions",
    "SentenceRegions",
    "StatisticsBranch",
    "TopLeft",
    "WeightedLayers",
    "WordHead",
    "all_seen",
    "count_from_zero",
    "detached",
    "find_folder",
    "first_token",
    "head_statistics",
    "load_encoder",
    "load_word_head",
    "lora",
    "make_attention_cnn",
    "mean_of_tokens",
    "pair_mask",
    "plain_statistics",
    "pool_maps",
    "relative_statistics",
    "standardise",
    "statistic_names",
    "token_regions",
]
