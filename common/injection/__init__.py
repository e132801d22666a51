"""Ways to put visual features into a language model; arrays in, arrays out, no model known.

Features to tokens: `VisionProjector`, `SpatialProjector`, `QueryResampler`, `PerceiverResampler`,
`SlotResampler`. Tokens into a decoder: `ReplaceTokens` at its input, and before any layer by an
`Injector`: `GatedCrossAttention`, `DisentangledLayer`, `PooledFiLM`. Public checkpoints: `from_hf`.
"""

from common.injection.attention import GatedMLP, MultiHeadAttention
from common.injection.disentangled import DisentangledAttention, DisentangledLayer
from common.injection.film import FiLM, FiLMGenerator, PooledFiLM
from common.injection.film_ensemble import (
    EnsemblePrediction,
    FiLMEnsemble,
    by_member,
    ensemble_prediction,
    for_members,
)
from common.injection.from_hf import from_hf
from common.injection.gated_cross_attention import (
    GatedCrossAttention,
    GatedCrossAttentionStack,
    ResampledCrossAttention,
    gated_cross_attention,
)
from common.injection.injector import (
    Injector,
    early_layers,
    every_kth_layer,
    late_layers,
    layer_names,
    middle_layers,
)
from common.injection.mllama import (
    MllamaDecoder,
    MllamaOutput,
    MllamaSizes,
    mllama_decoder,
    mllama_schedule,
)
from common.injection.pathways import PathwayFiLM, SamePath
from common.injection.perceiver import PerceiverResampler, perceiver_resampler
from common.injection.projector import (
    LinearProjector,
    MLPProjector,
    ReplaceTokens,
    VisionProjector,
    replace_tokens,
    select_features,
)
from common.injection.qformer import (
    QFormer,
    QFormerOutput,
    QueryResampler,
    TextEmbedding,
    qformer,
)
from common.injection.qformer_bert import initialise_from_bert, text_from_bert
from common.injection.qformer_masks import (
    bidirectional_mask,
    causal_multimodal_mask,
    separate_mask,
)
from common.injection.qformer_objectives import (
    ObjectiveLosses,
    QFormerPretraining,
    Similarity,
    contrastive_loss,
    generation_loss,
    hard_negatives,
    matching_loss,
    similarity,
)
from common.injection.rope import HalfRotation, Llama3Scaling
from common.injection.slots import (
    OwnQueries,
    SharedQueries,
    SlotAttention,
    SlotQueryAttention,
    SlotResampler,
)
from common.injection.spatial_tokens import (
    DetailIntegrator,
    NoDetail,
    SpatialProjector,
    SpatialTokens,
    central_crops,
    pooled_grids,
)
from common.injection.tile_masks import latest_image_mask, tile_mask, tile_tag_mask

__all__ = [
    "DetailIntegrator",
    "DisentangledAttention",
    "DisentangledLayer",
    "EnsemblePrediction",
    "FiLM",
    "FiLMEnsemble",
    "FiLMGenerator",
    "GatedCrossAttention",
    "GatedCrossAttentionStack",
    "GatedMLP",
    "HalfRotation",
    "Injector",
    "LinearProjector",
    "Llama3Scaling",
    "MLPProjector",
    "MllamaDecoder",
    "MllamaOutput",
    "MllamaSizes",
    "MultiHeadAttention",
    "NoDetail",
    "ObjectiveLosses",
    "OwnQueries",
    "PathwayFiLM",
    "PerceiverResampler",
    "PooledFiLM",
    "QFormer",
    "QFormerOutput",
    "QFormerPretraining",
    "QueryResampler",
    "ReplaceTokens",
    "ResampledCrossAttention",
    "SamePath",
    "SharedQueries",
    "Similarity",
    "SlotAttention",
    "SlotQueryAttention",
    "SlotResampler",
    "SpatialProjector",
    "SpatialTokens",
    "TextEmbedding",
    "VisionProjector",
    "bidirectional_mask",
    "by_member",
    "causal_multimodal_mask",
    "central_crops",
    "contrastive_loss",
    "early_layers",
    "ensemble_prediction",
    "every_kth_layer",
    "for_members",
    "from_hf",
    "gated_cross_attention",
    "generation_loss",
    "hard_negatives",
    "initialise_from_bert",
    "late_layers",
    "latest_image_mask",
    "layer_names",
    "matching_loss",
    "middle_layers",
    "mllama_decoder",
    "mllama_schedule",
    "perceiver_resampler",
    "pooled_grids",
    "qformer",
    "replace_tokens",
    "select_features",
    "separate_mask",
    "similarity",
    "text_from_bert",
    "tile_mask",
    "tile_tag_mask",
]
