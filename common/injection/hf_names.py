"""The public names of the mechanisms' parameters, by their paths in the Flax modules."""

import re

Names = dict[str, str]
"""Public name of each parameter, by its path: 'layers_0/mlp/up/kernel'."""


def qformer_name(name: str) -> str:
    """Returns the name in a Blip2QFormerModel of a tensor of that or of a model around it."""
    return re.sub(r"^(model\.)?(qformer\.)?", "", name)


def idefics_name(name: str) -> str:
    """Returns the name in an IdeficsModel."""
    return name.removeprefix("model.")


def mllama_name(name: str) -> str:
    """Returns the name in a MllamaForCausalLM of a tensor of that or of a model around or in it."""
    inner = re.sub(r"^(model\.language_model\.|language_model\.)?(model\.)?", "", name)
    return inner if inner == "lm_head.weight" else f"model.{inner}"


def llava_name(name: str) -> str:
    """Returns the name in a LlavaModel."""
    return name.removeprefix("model.")


def qformer_names(depth: int, every: int, text: bool) -> Names:
    """Returns the names of a `QFormer`."""
    names = _norm("norm", "layernorm")
    for n in range(depth):
        names |= _qformer_layer(n, cross=n % every == 0, text=text)
    return names


def perceiver_names(depth: int, norms: bool) -> Names:
    """Returns the names of a `PerceiverResampler`."""
    stored = "perceiver_resampler"
    names = {"latents": f"{stored}.latents"} | _norm("norm", f"{stored}.layer_norm")
    for n in range(depth):
        ours, attention, mlp = f"blocks_{n}", f"{stored}.blocks.{n}.0", f"{stored}.blocks.{n}.1"
        names |= _norm(f"{ours}/latents_norm", f"{attention}.latents_layer_norm")
        names |= _norm(f"{ours}/features_norm", f"{attention}.context_layer_norm")
        names |= _projections(f"{ours}/attention", attention, "output_proj")
        if norms:
            for name in ("query", "key"):
                public = f"{attention}.{name[0]}_layer_norm"
                names |= _norm(f"{ours}/attention/{name}_norm", public)
        names |= _norm(f"{ours}/mlp_norm", f"{mlp}.ln")
        names |= _dense(f"{ours}/up", f"{mlp}.fc", bias=False)
        names |= _dense(f"{ours}/down", f"{mlp}.c_proj", bias=False)
    return names


def gated_names(depth: int, norms: bool) -> Names:
    """Returns the names of a `GatedCrossAttentionStack`."""
    names: Names = {}
    for n in range(depth):
        ours, public = f"layers_{n}", f"gated_cross_attn_layers.{n}"
        norm = "layer_norm" if norms else None
        names |= _gated_layer(ours, public, f"{public}.cross_attn", norm)
        names[f"{ours}/attention_gate"] = f"{public}.alpha_cross_attn"
        names[f"{ours}/mlp_gate"] = f"{public}.alpha_dense"
    return names


def mllama_names(depth: int, cross_layers: tuple[int, ...]) -> Names:
    """Returns the names of a `MllamaDecoder`."""
    names = {
        "embedding": "model.embed_tokens.weight",
        "norm/scale": "model.norm.weight",
        "head/kernel": "lm_head.weight",
    }
    for n in range(depth):
        names |= _mllama_layer(n, cross=n in cross_layers)
    return names


def llava_names(bias: bool) -> Names:
    """Returns the names of a `VisionProjector`."""
    names: Names = {}
    for linear in ("linear_1", "linear_2"):
        names |= _dense(f"projector/{linear}", f"multi_modal_projector.{linear}", bias)
    return names


def _qformer_layer(n: int, cross: bool, text: bool) -> Names:
    """Names of one layer of a Q-Former."""
    ours, public = f"layers_{n}", f"encoder.layer.{n}"
    names: Names = {}
    blocks = [("attention", "attention")] + [("cross", "crossattention")] * cross
    for block, stored in blocks:
        for name in ("query", "key", "value"):
            names |= _dense(f"{ours}/{block}/{name}", f"{public}.{stored}.attention.{name}")
        names |= _dense(f"{ours}/{block}/out", f"{public}.{stored}.output.dense")
        names |= _norm(f"{ours}/{block}/norm", f"{public}.{stored}.output.LayerNorm")
    for block, suffix in [("query_mlp", "_query")] + [("text_mlp", "")] * text:
        names |= _dense(f"{ours}/{block}/up", f"{public}.intermediate{suffix}.dense")
        names |= _dense(f"{ours}/{block}/down", f"{public}.output{suffix}.dense")
        names |= _norm(f"{ours}/{block}/norm", f"{public}.output{suffix}.LayerNorm")
    return names


def _mllama_layer(n: int, cross: bool) -> Names:
    """Names of one layer of a decoder."""
    ours, public = f"layers_{n}", f"model.layers.{n}"
    if cross:
        names = _gated_layer(ours, public, f"{public}.cross_attn", "norm")
        names[f"{ours}/attention_gate"] = f"{public}.cross_attn_attn_gate"
        names[f"{ours}/mlp_gate"] = f"{public}.cross_attn_mlp_gate"
        return names
    names = _projections(ours, f"{public}.self_attn", "o_proj")
    return names | _pre_norm_parts(ours, public)


def _gated_layer(ours: str, public: str, attention: str, norms: str | None) -> Names:
    """Names of a gated cross-attention layer but for its gates."""
    names = _projections(f"{ours}/attention", attention, "o_proj") | _pre_norm_parts(ours, public)
    if norms is not None:
        for name in ("query", "key"):
            stored = f"{attention}.{name[0]}_{norms}"
            names |= _norm(f"{ours}/attention/{name}_norm", stored, bias=False)
    return names


def _pre_norm_parts(ours: str, public: str) -> Names:
    """Names of the two norms and the gated feed-forward net."""
    names = _norm(f"{ours}/attention_norm", f"{public}.input_layernorm", bias=False)
    names |= _norm(f"{ours}/mlp_norm", f"{public}.post_attention_layernorm", bias=False)
    for name in ("gate", "up", "down"):
        names |= _dense(f"{ours}/mlp/{name}", f"{public}.mlp.{name}_proj", bias=False)
    return names


def _projections(ours: str, public: str, out: str) -> Names:
    names = _dense(f"{ours}/out", f"{public}.{out}", bias=False)
    for name in ("query", "key", "value"):
        names |= _dense(f"{ours}/{name}", f"{public}.{name[0]}_proj", bias=False)
    return names


def _dense(ours: str, public: str, bias: bool = True) -> Names:
    names = {f"{ours}/kernel": f"{public}.weight"}
    return names | {f"{ours}/bias": f"{public}.bias"} if bias else names


def _norm(ours: str, public: str, bias: bool = True) -> Names:
    names = {f"{ours}/scale": f"{public}.weight"}
    return names | {f"{ours}/bias": f"{public}.bias"} if bias else names
