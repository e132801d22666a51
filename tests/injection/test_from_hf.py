"""Modules read from Hugging Face folders give the numbers of the public ones."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from common.errors import DataError
from common.injection import (
    GatedCrossAttentionStack,
    MllamaDecoder,
    PerceiverResampler,
    QFormer,
    QueryResampler,
    ResampledCrossAttention,
    VisionProjector,
    from_hf,
    replace_tokens,
)

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 5e-5
DECODER = 2e-4


def golden(name):
    """The module, its variables, and what the public module makes of which inputs."""
    module, variables = from_hf(GOLDEN / name)
    with np.load(GOLDEN / name / "expected.npz") as file:
        return module, variables, dict(file)


def close(found, expected, tolerance=TOLERANCE):
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(np.asarray(found), expected, atol=tolerance, rtol=0)


def test_qformer():
    module, variables, a = golden("qformer")
    assert isinstance(module, QFormer)
    run = jax.jit(module.apply)
    out = run(variables, a["query_tokens"], a["encoder_hidden_states"], a["encoder_attention_mask"])
    for name in ("last_hidden_state", "pooler_output"):
        close(getattr(out, name), a[name])
    for name in ("hidden_states", "self_attentions", "cross_attentions"):
        close(np.stack(getattr(out, name)), a[name])
    out = run(variables, a["query_tokens"], a["encoder_hidden_states"])
    close(out.last_hidden_state, a["nomask_last_hidden_state"])
    close(np.stack(out.cross_attentions), a["nomask_cross_attentions"])


def test_qformer_with_text():
    module, variables, a = golden("qformer_text")
    mask = (a["real"] != 0)[:, None, None]
    mask = jnp.broadcast_to(mask, (2, 1, 9, 9))
    run = jax.jit(lambda *x: module.apply(variables, *x, text=a["text"], mask=mask))
    close(run(a["queries"], a["features"]).last_hidden_state, a["last_hidden_state"])


def test_qformer_with_its_queries(tmp_path):
    """As it stands in a Blip2Model, between parts that are passed over when asked."""
    tensors = load_file(GOLDEN / "qformer" / "model.safetensors")
    expected = np.load(GOLDEN / "qformer" / "expected.npz")
    tensors = {f"qformer.{name}": tensor for name, tensor in tensors.items()}
    tensors["query_tokens"] = expected["query_tokens"]
    tensors["language_projection.weight"] = np.zeros((3, 32), np.float32)
    config = json.loads((GOLDEN / "qformer" / "config.json").read_text())
    config = {"model_type": "blip-2", "qformer_config": config, "hidden_size": 7}
    write(tmp_path, config, tensors)
    with pytest.raises(DataError, match=r"language_projection.weight is unknown"):
        from_hf(tmp_path)
    module, variables = from_hf(tmp_path, ignore=["language_projection."])
    assert isinstance(module, QueryResampler)
    out = jax.jit(module.apply)(
        variables, expected["encoder_hidden_states"], expected["encoder_attention_mask"]
    )
    close(out, expected["last_hidden_state"])


@pytest.mark.parametrize("name", ["perceiver", "perceiver_without_norms"])
def test_perceiver_resampler(name):
    module, variables, a = golden(name)
    assert isinstance(module, PerceiverResampler)
    close(jax.jit(module.apply)(variables, a["features"]), a["output"])


@pytest.mark.parametrize("name", ["gated_cross_attention", "gated_without_norms"])
def test_gated_cross_attention(name):
    module, variables, a = golden(name)
    assert isinstance(module, GatedCrossAttentionStack)
    run = jax.jit(module.apply, static_argnames="layer")
    x = a["x"]
    for number, expected in enumerate(a["outputs"]):
        x = run(variables, x, a["vision"], a["visible"], layer=number)
        close(x, expected)
    close(run(variables, a["x"], a["vision"], a["visible"]), a["outputs"][-1])
    close(run(variables, a["x"], a["vision"], layer=0), a["unmasked"])


def test_resampler_and_layers_together(tmp_path):
    parts = [
        load_file(GOLDEN / n / "model.safetensors") for n in ("perceiver", "gated_cross_attention")
    ]
    tensors = {f"model.{name}": tensor for part in parts for name, tensor in part.items()}
    write(tmp_path, json.loads((GOLDEN / "perceiver" / "config.json").read_text()), tensors)
    module, variables = from_hf(tmp_path)
    assert isinstance(module, ResampledCrossAttention)
    a, b = (np.load(GOLDEN / n / "expected.npz") for n in ("perceiver", "gated_cross_attention"))
    resample = jax.jit(lambda x: module.apply(variables, x, method="resample"))
    close(resample(a["features"]), a["output"])
    stack, stack_variables = from_hf(GOLDEN / "gated_cross_attention")
    expected = jax.jit(stack.apply)(stack_variables, b["x"], a["output"])
    close(jax.jit(module.apply)(variables, b["x"], a["features"]), np.asarray(expected))


@pytest.mark.parametrize("name", ["mllama", "mllama_plain_rope"])
def test_mllama_decoder(name):
    module, variables, a = golden(name)
    assert isinstance(module, MllamaDecoder)
    run = jax.jit(module.apply)
    out = run(variables, a["tokens"], a["vision"], a["visible"], a["real"])
    close(out.logits, a["logits"], DECODER)
    close(np.stack(out.hidden_states), a["hidden_states"], DECODER)


def test_mllama_without_masks_and_without_images():
    module, variables, a = golden("mllama")
    run = jax.jit(module.apply)
    close(run(variables, a["tokens"], a["vision"]).logits, a["unmasked_logits"], DECODER)
    out = run(variables, a["tokens"])
    close(out.logits, a["text_logits"], DECODER)
    close(np.stack(out.hidden_states), a["text_hidden_states"], DECODER)


def test_mllama_in_a_model_for_generation(tmp_path):
    """Prefixes of the surrounding model, sections of its config, and older names of rope."""
    tensors = load_file(GOLDEN / "mllama" / "model.safetensors")
    tensors = {
        name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in tensors.items()
    }
    text = json.loads((GOLDEN / "mllama" / "config.json").read_text())
    rope = text.pop("rope_parameters")
    text |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    write(tmp_path, {"model_type": "mllama", "text_config": text}, tensors)
    module, variables = from_hf(tmp_path)
    a = np.load(GOLDEN / "mllama" / "expected.npz")
    out = jax.jit(module.apply)(variables, a["tokens"])
    close(out.logits, a["text_logits"], DECODER)


@pytest.mark.parametrize("name", ["llava", "llava_layers"])
def test_llava_projector(name):
    module, variables, a = golden(name)
    assert isinstance(module, VisionProjector)
    features = jax.jit(module.apply)(variables, a["hidden_states"])
    close(features, a["image_features"])
    close(module.apply(variables, tuple(a["hidden_states"])), a["image_features"])
    image_token = json.loads((GOLDEN / name / "config.json").read_text())["image_token_index"]
    merged = replace_tokens(a["embeddings"], features, a["tokens"] == image_token)
    close(merged, a["merged"])


def test_half_precision_is_read_as_float32(tmp_path):
    tensors = load_file(GOLDEN / "perceiver" / "model.safetensors")
    halves = {name: np.asarray(jnp.asarray(x, jnp.bfloat16)) for name, x in tensors.items()}
    write(tmp_path, json.loads((GOLDEN / "perceiver" / "config.json").read_text()), halves)
    _, variables = from_hf(tmp_path)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def write(folder, config, tensors):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {name: np.ascontiguousarray(x) for name, x in tensors.items()}, folder / "model.safetensors"
    )


def copied(tmp_path, name, config=None, tensors=None):
    """A golden folder with some fields and tensors changed; None takes them away."""
    folder = tmp_path / "changed"
    shutil.copytree(GOLDEN / name, folder)
    fields = json.loads((folder / "config.json").read_text()) | (config or {})
    stored = load_file(folder / "model.safetensors") | (tensors or {})
    write(
        folder,
        {key: value for key, value in fields.items() if value is not None},
        {key: value for key, value in stored.items() if value is not None},
    )
    return folder


ONE = np.zeros(1, np.float32)
REFUSED = {
    "unknown_tensor": ("qformer", {}, {"encoder.layer.9.x": ONE}, r"encoder.layer.9.x is unknown"),
    "missing": ("mllama", {}, {"lm_head.weight": None}, r"lm_head.weight is missing"),
    "shape": (
        "mllama",
        {"intermediate_size": 25},
        {},
        r"gate_proj.weight is \[24, 16\], expected \[25",
    ),
    "type": (
        "qformer",
        {"model_type": "bert"},
        {},
        r"model_type bert is not known; expected one of",
    ),
    "activation": (
        "qformer",
        {"hidden_act": "quick"},
        {},
        r"hidden_act is 'quick'; expected one of",
    ),
    "depth": (
        "perceiver",
        {"perceiver_config": {"resampler_depth": 0}},
        {},
        r"resampler_depth is 0",
    ),
    "deeper": (
        "perceiver",
        {"perceiver_config": None, "resampler_depth": 3},
        {},
        r"blocks.2.\S+ is missing",
    ),
    "norms": (
        "gated_without_norms",
        {"qk_layer_norms": True},
        {},
        r"cross_attn.k_layer_norm.weight is missing",
    ),
    "no_norms": (
        "gated_cross_attention",
        {"qk_layer_norms": False},
        {},
        r"cross_attn.k_layer_norm.weight is unknown",
    ),
    "gap": (
        "gated_without_norms",
        {},
        {"gated_cross_attn_layers.2.alpha_dense": ONE},
        r"gated_cross_attn_layers.1.alpha_cross_attn is missing",
    ),
    "heads": ("gated_cross_attention", {"num_attention_heads": 3}, {}, r"multiple of 3 heads"),
    "width": ("qformer", {"num_attention_heads": 3}, {}, r"32 channels do not divide into 3 heads"),
    "rope": ("mllama", {"rope_parameters": {"rope_type": "yarn"}}, {}, r"rope_type yarn; expected"),
    "half_a_rope": (
        "mllama",
        {"rope_parameters": {"rope_type": "llama3"}},
        {},
        r"rope_parameters lacks a number: 'factor'",
    ),
    "cross": ("mllama", {"cross_attention_layers": [1, 7]}, {}, r"cross layers \[7\] of 5 layers"),
    "strategy": (
        "llava",
        {"vision_feature_select_strategy": "some"},
        {},
        r"vision_feature_select_strategy is 'some'",
    ),
    "layers": ("llava", {"vision_feature_layer": []}, {}, r"vision_feature_layer is \[\]"),
    "two_layers": ("llava", {"vision_feature_layer": [1, 2]}, {}, r"expected \[16, 24\]"),
    "rank": (
        "perceiver",
        {},
        {"perceiver_resampler.latents": ONE},
        r"latents is \[1\], expected \[",
    ),
    "twin": (
        "perceiver",
        {},
        {"model.perceiver_resampler.latents": np.zeros((5, 12), np.float32)},
        r"and another tensor are both perceiver_resampler.latents",
    ),
}


@pytest.mark.parametrize(("name", "config", "tensors", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, name, config, tensors, message):
    folder = copied(tmp_path, name, config, tensors)
    with pytest.raises(DataError, match=message) as caught:
        from_hf(folder)
    assert "\n" not in str(caught.value)


MODULES = {
    "perceiver": PerceiverResampler,
    "gated_cross_attention": GatedCrossAttentionStack,
    "mllama": MllamaDecoder,
    "llava": VisionProjector,
    "qformer": QFormer,
}


@pytest.mark.parametrize("name", MODULES)
def test_the_family_is_known_by_the_tensors_alone(tmp_path, name):
    module, _ = from_hf(copied(tmp_path, name, {"model_type": None}))
    assert isinstance(module, MODULES[name])


@pytest.mark.parametrize(
    ("text", "message"), [("[]", "is no JSON object"), ("{", "is no JSON"), ("{}", "no model_type")]
)
def test_a_config_that_says_nothing_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    save_file({"x": ONE}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=message):
        from_hf(tmp_path)
