"""Reads the public mechanisms from Hugging Face folders: config.json and model.safetensors.

| in the folder | module | called with |
|---|---|---|
| Blip2QFormerModel | `QFormer` | queries (b, q, d), features (b, s, e), features_mask (b, s) |
| the same with `query_tokens` | `QueryResampler` | features (b, s, e), features_mask (b, s) |
| IdeficsPerceiverResampler | `PerceiverResampler` | features (b, s, d) |
| IdeficsGatedCrossAttentionLayer, one or several | `GatedCrossAttentionStack` | x (b, t, d), \
vision (b, s, e), visible (b, t, s), layer=None |
| both | `ResampledCrossAttention` | x (b, t, d), features (b, s, e), layer=None |
| MllamaForCausalLM | `MllamaDecoder` | tokens (b, t), vision (b, s, d), visible (b, t, s), \
attention_mask (b, t), places (b, t) |
| LlavaMultiModalProjector | `VisionProjector` | hidden_states, a sequence of (b, s, e); \
`method="project"`: selected features |

Masks are 1 or True where something may be seen, and may be left out.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from common.array_types import PyTree
from common.checkpoints.tensors import check_shapes, load_hf_tensors
from common.errors import DataError, shown
from common.files import StrPath, open_data_file
from common.injection.hf_names import idefics_name, llava_name, mllama_name, qformer_name
from common.injection.hf_readers import (
    Config,
    Reading,
    Tensors,
    read_idefics,
    read_llava,
    read_mllama,
    read_qformer,
)

Reader = Callable[[Config, Tensors], Reading]

FAMILIES: dict[str, tuple[Callable[[str], str], Reader]] = {
    "qformer": (qformer_name, read_qformer),
    "idefics": (idefics_name, read_idefics),
    "mllama": (mllama_name, read_mllama),
    "llava": (llava_name, read_llava),
}
"""How a family's tensors are called, and how its module is built."""

MODEL_TYPES = {
    "blip_2_qformer": "qformer",
    "blip-2": "qformer",
    "idefics": "idefics",
    "idefics_perciever": "idefics",  # so spelt in public
    "mllama_text_model": "mllama",
    "mllama": "mllama",
    "llava": "llava",
}
"""Family of each value of 'model_type' that is read."""

MARKS = {
    "crossattention.attention.query": "qformer",
    "perceiver_resampler.": "idefics",
    "gated_cross_attn_layers.": "idefics",
    "cross_attn_attn_gate": "mllama",
    "multi_modal_projector.linear_1": "llava",
}
"""Family of tensors with such names, where config.json does not say."""


def from_hf(folder: StrPath, ignore: Iterable[str] = ()) -> tuple[nn.Module, PyTree]:
    """Reads a mechanism; see the table above for what comes of what.

    Args:
        folder: holds config.json and model.safetensors, or its shards.
        ignore: tensors whose names begin so are passed over, such as those of the vision tower and
            the language model around a projector. Nothing is passed over by itself.

    Returns:
        The module and its variables, {'params': ...} in float32:
        `module.apply(variables, *inputs)`.

    Raises:
        DataError: a file cannot be read, the config says of something that is not known here, or
            the tensors are not those that the config calls for: missing and unused ones are named.
    """
    folder = Path(folder)
    config = _read_config(folder / "config.json")
    skipped = tuple(ignore)
    stored = {
        name: tensor
        for name, tensor in load_hf_tensors(folder).items()
        if not (skipped and name.startswith(skipped))
    }
    public_name, read = FAMILIES[_family(config, stored, folder)]
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in stored.items():
        if (public := public_name(name)) in tensors:
            raise DataError(f"{folder}: {shown(name)} and another tensor are both {public}")
        tensors[public] = tensor
    try:
        reading = read(config, tensors)
        module, method = reading.module, reading.method
        params = jax.eval_shape(
            lambda *inputs: module.init(jax.random.key(0), *inputs, method=method),
            *reading.inputs,
        )["params"]
    except ValueError as error:  # sizes that do not go together, as the module says
        raise DataError(f"{folder / 'config.json'}: {error}") from None
    return module, {"params": _arranged(params, reading.names, tensors, folder)}


def _arranged(params: PyTree, names: Mapping[str, str], tensors: Tensors, where: Path) -> PyTree:
    """Returns the tensors in the places of the parameters, in float32."""
    flat: dict[str, Any] = dict(flatten_dict(params, sep="/"))
    if flat.keys() != names.keys():  # a table that does not fit its module: an error in here
        raise AssertionError(sorted(flat.keys() ^ names.keys()))
    shapes = {names[path]: _stored_shape(path, leaf.shape) for path, leaf in flat.items()}
    check_shapes(tensors, shapes, where)
    placed = {}
    for path, name in names.items():
        array = np.asarray(tensors[name], np.float32)
        placed[path] = jnp.asarray(array.T if path.endswith("kernel") else array)
    return unflatten_dict(placed, sep="/")


def _stored_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape in the file, where linear maps are stored (out, in)."""
    return shape[::-1] if path.endswith("kernel") else shape


def _family(config: Config, tensors: Tensors, folder: Path) -> str:
    """Returns the family by the config's model_type or, where it has none, by tensors' names."""
    if (model_type := config.get("model_type")) is not None:
        if isinstance(model_type, str) and model_type in MODEL_TYPES:
            return MODEL_TYPES[model_type]
        raise DataError(
            f"{folder / 'config.json'}: model_type {shown(model_type)} is not known; expected one "
            f"of {', '.join(MODEL_TYPES)}"
        )
    for name in tensors:
        for mark, family in MARKS.items():
            if mark in name:
                return family
    raise DataError(
        f"{folder / 'config.json'}: has no model_type, and no tensor is one of a known mechanism; "
        f"expected one of {', '.join(MODEL_TYPES)}"
    )


def _read_config(path: Path) -> dict[str, Any]:
    with open_data_file(path, "the config of a Hugging Face model") as file:
        raw = file.read()
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError):
        raise DataError(f"{path}: is no JSON") from None
    if not isinstance(config, dict):
        raise DataError(f"{path}: is no JSON object")
    return config
