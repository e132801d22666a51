"""What the public mechanisms' configs mean: a module, and the public name of each parameter."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from common.array_types import Array
from common.errors import DataError, shown
from common.injection.gated_cross_attention import (
    GatedCrossAttentionStack,
    ResampledCrossAttention,
    gated_cross_attention,
)
from common.injection.hf_names import (
    Names,
    gated_names,
    llava_names,
    mllama_names,
    perceiver_names,
    qformer_names,
)
from common.injection.mllama import MllamaSizes, mllama_decoder, mllama_schedule
from common.injection.perceiver import PerceiverResampler, perceiver_resampler
from common.injection.projector import MLPProjector, VisionProjector
from common.injection.qformer import QueryResampler, qformer
from common.injection.rope import HalfRotation, Llama3Scaling
from common.nn import ACTIVATIONS

Config = Mapping[str, Any]
Tensors = Mapping[str, np.ndarray]


class Reading(NamedTuple):
    """What a folder holds.

    Attributes:
        module: to be filled.
        names: public name of each parameter, by its path.
        inputs: shapes that the module can be initialised with.
        method: that takes them.
    """

    module: nn.Module
    names: Names
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    method: str = "__call__"


def read_qformer(config: Config, tensors: Tensors) -> Reading:
    """Builds a Q-Former, with its queries where they are stored."""
    where = ("qformer_config",)
    depth, width = (
        _count(config, name, default, where)
        for name, default in (("num_hidden_layers", 12), ("hidden_size", 768))
    )
    every = _count(config, "cross_attention_frequency", 2, where)
    text = bool(_field(config, "use_qformer_text_input", False, where))
    module = qformer(
        depth,
        heads=_count(config, "num_attention_heads", 12, where),
        hidden=_count(config, "intermediate_size", 3072, where),
        every=every,
        text=text,
        activation=_activation(config, "hidden_act", "gelu", where),
        epsilon=_number(config, "layer_norm_eps", 1e-12, where),
    )
    names = qformer_names(depth, every, text)
    features = _shape(1, 2, _count(config, "encoder_hidden_size", 1408, where))
    if "query_tokens" not in tensors:
        # One text token, if there is text, makes the net of the text come to life.
        inputs = [_shape(1, 1, width), features, jax.ShapeDtypeStruct((1, 2), jnp.int32)]
        return Reading(module, names, tuple(inputs + [_shape(1, 1, width)] * text))
    if text:
        raise DataError("a Q-Former with text is read without query_tokens; ignore that tensor")
    count = _stored_shape(tensors, "query_tokens", (1, 1, width))[1]
    names = {f"qformer/{path}": name for path, name in names.items()}
    names["query_tokens"] = "query_tokens"
    return Reading(QueryResampler(module, width, count), names, (features,))


def read_idefics(config: Config, tensors: Tensors) -> Reading:
    """Builds a Perceiver resampler, gated cross-attention layers, or both, as tensors are there."""
    perceiver = any(name.startswith("perceiver_resampler.") for name in tensors)
    layers = [n for n in map(_gated_number, tensors) if n is not None]
    if not perceiver and not layers:
        raise DataError(
            "no tensor is named 'perceiver_resampler...' or 'gated_cross_attn_layers...'; found "
            f"{shown(', '.join(sorted(tensors)[:4]))}"
        )
    if not layers:
        return _read_perceiver(config, tensors)
    stack = _read_gated(config, tensors, 1 + max(layers))
    if not perceiver:
        return stack
    resampler = _read_perceiver(config, tensors)
    assert isinstance(resampler.module, PerceiverResampler)
    assert isinstance(stack.module, GatedCrossAttentionStack)
    names = {f"resampler/{path}": name for path, name in resampler.names.items()}
    names |= {f"stack/{path}": name for path, name in stack.names.items()}
    module = ResampledCrossAttention(resampler.module, stack.module)
    return Reading(module, names, (stack.inputs[0], *resampler.inputs))


def read_mllama(config: Config, tensors: Tensors) -> Reading:
    """Builds a decoder."""
    del tensors
    where = ("text_config",)
    depth, width = (
        _count(config, name, default, where)
        for name, default in (("num_hidden_layers", 40), ("hidden_size", 4096))
    )
    cross = _field(config, "cross_attention_layers", None, where)
    cross = mllama_schedule(40) if cross is None else cross
    if not isinstance(cross, list | tuple) or not all(type(n) is int for n in cross):
        raise DataError(f"config.json: cross_attention_layers is {cross!r}; expected numbers")
    sizes = MllamaSizes(
        vocabulary=_count(config, "vocab_size", 128256, where),
        width=width,
        depth=depth,
        heads=_count(config, "num_attention_heads", 32, where),
        groups=_count(config, "num_key_value_heads", 8, where),
        hidden=_count(config, "intermediate_size", 14336, where),
        cross_layers=tuple(cross),
        rotation=_rotation(config, where),
        epsilon=_number(config, "rms_norm_eps", 1e-5, where),
        activation=_activation(config, "hidden_act", "silu", where),
    )
    names = mllama_names(depth, sizes.cross_layers)
    inputs = jax.ShapeDtypeStruct((1, 2), jnp.int32), _shape(1, 2, width)
    return Reading(mllama_decoder(sizes), names, inputs)


def read_llava(config: Config, tensors: Tensors) -> Reading:
    """Builds a projector with the selection of features."""
    layers = config.get("vision_feature_layer", -2)
    chosen = layers if isinstance(layers, list) else [layers]
    strategy = config.get("vision_feature_select_strategy", "default")
    if not chosen or not all(type(n) is int for n in chosen):
        raise DataError(f"config.json: vision_feature_layer is {layers!r}; expected numbers")
    if strategy not in ("default", "full"):
        raise DataError(f"config.json: vision_feature_select_strategy is {strategy!r}")
    name = "multi_modal_projector.linear_1.weight"
    rows, columns = _stored_shape(tensors, name, (1, len(chosen)))
    width = _count(config, "hidden_size", rows, ("text_config",))
    vision = _count(config, "hidden_size", columns // len(chosen), ("vision_config",))
    bias = bool(config.get("multimodal_projector_bias", True))
    projector = MLPProjector(width, bias, _activation(config, "projector_hidden_act", "gelu"))
    selected = layers if isinstance(layers, int) else tuple(chosen)
    module = VisionProjector(projector, selected, strategy)
    inputs = (_shape(1, 1, vision * len(chosen)),)
    return Reading(module, llava_names(bias), inputs, method="project")


def _read_perceiver(config: Config, tensors: Tensors) -> Reading:
    where, stored = ("perceiver_config",), "perceiver_resampler"
    width = _count(config, "embed_dim", 768, ("vision_config",))
    width = _stored_shape(tensors, f"{stored}.latents", (1, width))[1]
    hidden = _stored_shape(tensors, f"{stored}.blocks.0.1.fc.weight", (4 * width, width))[0]
    depth = _count(config, "resampler_depth", 6, where)
    norms = _norms_of(
        config, "qk_layer_norms_perceiver", tensors, f"{stored}.blocks.0.0.q_layer_norm"
    )
    module = perceiver_resampler(
        _count(config, "resampler_n_latents", 64, where),
        depth,
        heads=_count(config, "resampler_n_heads", 16, where),
        head_width=_count(config, "resampler_head_dim", 96, where),
        hidden=hidden,
        qk_norms=norms,
    )
    return Reading(module, perceiver_names(depth, norms), (_shape(1, 2, width),))


def _read_gated(config: Config, tensors: Tensors, depth: int) -> Reading:
    where, first = ("text_config",), "gated_cross_attn_layers.0"
    width = _count(config, "hidden_size", 4096, where)
    heads = _count(config, "num_attention_heads", 32, where)
    if width % heads:
        raise ValueError(f"hidden_size is {width}; expected a multiple of {heads} heads")
    norms = _norms_of(config, "qk_layer_norms", tensors, f"{first}.cross_attn.q_layer_norm")
    vision = _stored_shape(tensors, f"{first}.cross_attn.k_proj.weight", (1, 1))[1]
    gate = tensors.get(f"{first}.alpha_cross_attn", np.zeros(1)).shape
    if gate not in ((), (1,), (1, 1, width)):
        raise DataError(f"{first}.alpha_cross_attn is {list(gate)}; expected one or one a channel")
    if _activation(config, "hidden_act", "silu", where) is not jax.nn.silu:
        raise DataError("config.json: hidden_act of gated cross-attention is not silu")
    layers = [
        gated_cross_attention(
            heads,
            width // heads,
            hidden=_count(config, "intermediate_size", 11008, where),
            qk_norms=norms,
            gate_shape=gate,
            epsilon=_number(config, "rms_norm_eps", 1e-6, where),
        )
        for _ in range(depth)
    ]
    inputs = _shape(1, 2, width), _shape(1, 2, vision)
    return Reading(GatedCrossAttentionStack(tuple(layers)), gated_names(depth, norms), inputs)


def _gated_number(name: str) -> int | None:
    found = re.match(r"gated_cross_attn_layers\.(\d{1,4})\.", name)
    return int(found[1]) if found else None


def _rotation(config: Config, where: tuple[str, ...]) -> HalfRotation:
    """Returns the rotary positions, which newer and older configs describe under other names."""
    rope = _field(config, "rope_parameters", None, where) or {}
    rope = rope or _field(config, "rope_scaling", None, where) or {}
    if not isinstance(rope, dict):
        raise DataError(f"config.json: rope_parameters is {shown(rope)}")
    theta = rope.get("rope_theta", _field(config, "rope_theta", 500_000.0, where))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return HalfRotation(float(theta))
    if kind != "llama3":
        raise DataError(f"config.json: rope_type {shown(kind)}; expected 'default' or 'llama3'")
    try:
        scaling = Llama3Scaling(
            float(rope["factor"]),
            float(rope["low_freq_factor"]),
            float(rope["high_freq_factor"]),
            int(rope["original_max_position_embeddings"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"config.json: rope_parameters lacks a number: {error}") from None
    return HalfRotation(float(theta), scaling)


def _norms_of(config: Config, name: str, tensors: Tensors, tensor: str) -> bool:
    """Tells whether there are norms of queries and keys: as the config says, else as stored."""
    said = _field(config, name, None, ("perceiver_config", "text_config"))
    return f"{tensor}.weight" in tensors if said is None else bool(said)


def _field(config: Config, name: str, default: Any, where: tuple[str, ...] = ()) -> Any:
    """Returns a field of the config's sections, or of the config itself, or the default."""
    for section in (*(config.get(section) for section in where), config):
        if isinstance(section, Mapping) and name in section:
            return section[name]
    return default


def _count(config: Config, name: str, default: int, where: tuple[str, ...] = ()) -> int:
    value = _field(config, name, default, where)
    if type(value) is not int or value < 1:
        raise DataError(f"config.json: {name} is {value!r}; expected a number from 1 on")
    return value


def _number(config: Config, name: str, default: float, where: tuple[str, ...]) -> float:
    value = _field(config, name, default, where)
    if type(value) not in (int, float):
        raise DataError(f"config.json: {name} is {value!r}; expected a number")
    return float(value)


def _activation(
    config: Config, name: str, default: str, where: tuple[str, ...] = ()
) -> Callable[[Array], Array]:
    value = _field(config, name, default, where)
    if not isinstance(value, str) or value not in ACTIVATIONS:
        raise DataError(
            f"config.json: {name} is {value!r}; expected one of {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[value]


def _stored_shape(tensors: Tensors, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of a tensor, or the default where it is missing or of another rank."""
    shape = tensors[name].shape if name in tensors else default
    return shape if len(shape) == len(default) and all(shape) else default


def _shape(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)
