"""Reads encoders of the BERT family from Hugging Face folders.

A folder holds config.json and model.safetensors or its shards. Old and new names are understood:
the prefixes 'bert.' and 'roberta.', layer norms as gamma and beta, buffers of position ids, and
heads for pretraining, which are passed over and told of (`alcnet.word_head` reads that of words).
"""

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alcnet.encoder import (
    CountTokens,
    Embeddings,
    Encoder,
    EncoderLayer,
    Pooler,
    count_from_zero,
)
from common.array_types import PyTree
from common.checkpoints.tensors import check_shapes, load_hf_tensors
from common.errors import DataError, UserError, shown
from common.files import StrPath, open_data_file
from common.nn import ACTIVATIONS

Tell = Callable[[str], None]

FAMILIES = {"bert": 0, "roberta": 1, "xlm-roberta": 1, "camembert": 1}
"""Values of 'model_type' that are read, and the id of padding where config.json has none."""

PREFIXES = ("bert.", "roberta.")
DEFAULTS: dict[str, Any] = {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "max_position_embeddings": 512,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
"""What these models have where config.json is silent."""

SHOWN_KEYS = 8
"""Number of keys that a message names."""

_ROWS = {"word": "word_embeddings", "position": "position_embeddings"}
_ROWS["token_type"] = "token_type_embeddings"
_DENSE = {
    ("attention", "query"): "attention.self.query",
    ("attention", "key"): "attention.self.key",
    ("attention", "value"): "attention.self.value",
    ("attention", "output"): "attention.output.dense",
    ("up",): "intermediate.dense",
    ("down",): "output.dense",
}
_NORMS = {"attention_norm": "attention.output.LayerNorm", "output_norm": "output.LayerNorm"}
_BUFFERS = re.compile(r"(.*\.)?(position_ids|token_type_ids)")


class KeyReport(NamedTuple):
    """How the tensors of a folder fit an encoder.

    Attributes:
        missing: names that the encoder wants and the folder lacks.
        unused: names that the folder has and the encoder does not want.
        buffers: names of stored positions and token types, which follow from the config.
    """

    missing: tuple[str, ...]
    unused: tuple[str, ...]
    buffers: tuple[str, ...]

    def lines(self) -> list[str]:
        """Says what was missing or passed over, a line each."""
        kinds = {"missing": self.missing, "not used": self.unused, "buffers": self.buffers}
        return [
            f"{kind}: {len(names)} {'tensor' if len(names) == 1 else 'tensors'}: {few(names)}"
            for kind, names in kinds.items()
            if names
        ]


def load_encoder(
    folder: StrPath,
    *,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    dtype: Any = jnp.float32,
    remat: bool = False,
    tell: Tell | None = None,
) -> tuple[Encoder, dict[str, PyTree]]:
    """Reads an encoder from a Hugging Face folder.

    Weights become float32 whatever they are stored in. A folder without a pooler's weights gives an
    encoder without pooler.

        encoder, variables = load_encoder("bert-base-uncased")
        output = encoder.apply(variables, input_ids, attention_mask, token_type_ids)

    Args:
        folder: A local folder, the name of an installed package that holds one, or the id of a
            model on the Hugging Face hub, which needs network or a filled cache.
        dropout: Rate of hidden states; by default that of config.json. It acts only where the
            encoder is called with deterministic=False.
        attention_dropout: Rate of the maps, likewise.
        dtype: Of activations.
        remat: See `Encoder`.
        tell: Hears of missing and unused tensors; by default prints to standard error.

    Returns:
        The module and its variables, {'params': ...}.

    Raises:
        UserError: No such folder, package or model.
        DataError: The config is of another kind of model, or tensors are missing or misshapen.
    """
    found = find_folder(folder)
    config = read_config(found)
    tensors, report = encoder_tensors(load_hf_tensors(found), config)
    where = str(found)
    if missing := [name for name in report.missing if not name.startswith("pooler.")]:
        raise DataError(f"{where}: lacks {len(missing)} tensors of the encoder: {few(missing)}")
    pooler = not report.missing
    tensors = {k: v for k, v in tensors.items() if pooler or not k.startswith("pooler.")}
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": attention_dropout}
    config |= {key: rate for key, rate in rates.items() if rate is not None}
    module = make_encoder(config, pooler=pooler, dtype=dtype, remat=remat)
    check_shapes(tensors, expected_shapes(config, pooler), where)
    for line in report.lines():
        (tell or _print)(f"{where}: {line}")
    return module, {"params": jax.tree.map(jnp.asarray, encoder_params(tensors, config, pooler))}


def find_folder(name: StrPath) -> Path:
    """Finds the folder of a model by path, by name of an installed package, or by its hub id.

    Raises:
        UserError: There is none.
    """
    path = Path(name)
    if path.is_dir():
        return path
    text = str(name)
    if text.isidentifier() and (found := _folder_of_package(text)) is not None:
        return found
    if path.is_absolute() or text.startswith(".") or text.count("/") > 1 or path.exists():
        raise UserError(f"{text}: no such folder; expected config.json and model.safetensors in it")
    return _folder_of_hub(text)


def read_config(folder: Path) -> dict[str, Any]:
    """Reads config.json, with the defaults of these models filled in.

    Raises:
        DataError: It is no JSON object, of another kind of model, or asks for what is unknown here.
    """
    file = folder / "config.json"
    with open_data_file(file, "the config of a Hugging Face model") as stream:
        raw = stream.read()
    try:
        given = json.loads(raw)
    except ValueError as error:
        raise DataError(f"{file}: no JSON: {error}") from None
    if not isinstance(given, dict):
        raise DataError(f"{file}: expected a JSON object")
    kind = given.get("model_type")
    if kind not in FAMILIES:
        kinds = ", ".join(FAMILIES)
        raise DataError(f"{file}: model_type is {shown(kind)}; can read {kinds}")
    pad = given.get("pad_token_id")
    config = DEFAULTS | given | {"pad_token_id": FAMILIES[kind] if pad is None else pad}
    config["vocab_size"] = given.get("vocab_size", 30522 if kind == "bert" else 50265)
    _refuse_unknown(file, config)
    return config


def _refuse_unknown(file: Path, config: Mapping[str, Any]) -> None:
    """Refuses what would change the computation and is not built."""
    if config["hidden_act"] not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise DataError(f"{file}: hidden_act is {shown(config['hidden_act'])}; can read {known}")
    if (kind := config.get("position_embedding_type", "absolute")) != "absolute":
        raise DataError(f"{file}: position_embedding_type is {shown(kind)}; can read absolute")
    for key in ("is_decoder", "add_cross_attention"):
        if config.get(key):
            raise DataError(f"{file}: {key} is set; can read encoders alone")
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    sizes += ("intermediate_size", "max_position_embeddings", "type_vocab_size")
    for key in sizes:
        if type(config[key]) is not int or config[key] < 1:
            raise DataError(f"{file}: {key} is {shown(str(config[key]))}; expected 1 or more")
    if config["hidden_size"] % config["num_attention_heads"]:
        raise DataError(
            f"{file}: hidden_size {config['hidden_size']} does not divide into "
            f"{config['num_attention_heads']} heads"
        )


def make_encoder(
    config: Mapping[str, Any],
    *,
    pooler: bool = True,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> Encoder:
    """Builds the encoder that the fields of a Hugging Face config describe."""
    rates = config["hidden_dropout_prob"], config["attention_probs_dropout_prob"]
    bert = config["model_type"] == "bert"
    epsilon = config["layer_norm_eps"]
    embeddings = Embeddings(
        config["vocab_size"],
        config["max_position_embeddings"],
        config["type_vocab_size"],
        config["hidden_size"],
        count=count_from_zero if bert else CountTokens(config["pad_token_id"]),
        epsilon=epsilon,
        dropout=rates[0],
        dtype=dtype,
    )
    layers = tuple(
        EncoderLayer(
            config["num_attention_heads"],
            config["intermediate_size"],
            ACTIVATIONS[config["hidden_act"]],
            epsilon,
            *rates,
            dtype,
        )
        for _ in range(config["num_hidden_layers"])
    )
    return Encoder(embeddings, layers, Pooler(dtype) if pooler else None, remat)


def expected_shapes(config: Mapping[str, Any], pooler: bool = True) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor of an encoder by its name; linear layers are (out, in)."""
    d, hidden = config["hidden_size"], config["intermediate_size"]
    counts = ("vocab_size", "max_position_embeddings", "type_vocab_size")
    shapes: dict[str, tuple[int, ...]] = {
        f"embeddings.{name}.weight": (config[count], d)
        for name, count in zip(_ROWS.values(), counts, strict=True)
    }
    shapes |= norm_shapes("embeddings.LayerNorm", d)
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        for path, name in _DENSE.items():
            rows = hidden if path == ("up",) else d
            columns = hidden if path == ("down",) else d
            shapes[f"{layer}.{name}.weight"] = (rows, columns)
            shapes[f"{layer}.{name}.bias"] = (rows,)
        for name in _NORMS.values():
            shapes |= norm_shapes(f"{layer}.{name}", d)
    if pooler:
        shapes |= {"pooler.dense.weight": (d, d), "pooler.dense.bias": (d,)}
    return shapes


def encoder_tensors(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], KeyReport]:
    """Picks the tensors of an encoder out of those of a checkpoint, under their modern names.

    Raises:
        DataError: A tensor is there twice, under its old and its new name.
    """
    wanted = expected_shapes(config)
    found: dict[str, np.ndarray] = {}
    unused, buffers = [], []
    for name, tensor in tensors.items():
        modern = modern_name(name)
        if _BUFFERS.fullmatch(name):
            buffers.append(name)
        elif modern not in wanted:
            unused.append(name)
        elif modern in found:
            raise DataError(f"{shown(name)} and another tensor are both {modern}")
        else:
            found[modern] = tensor
    missing = tuple(name for name in wanted if name not in found)
    return found, KeyReport(missing, tuple(unused), tuple(buffers))


def modern_name(name: str) -> str:
    """Returns a tensor's name without the model's prefix, with the layer norms' present names."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return re.sub(
        r"LayerNorm\.(gamma|beta)$",
        lambda match: f"LayerNorm.{'weight' if match[1] == 'gamma' else 'bias'}",
        name,
    )


def encoder_params(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], pooler: bool
) -> PyTree:
    """Arranges tensors of modern names as the parameters of `Encoder`, in float32."""
    embeddings: dict[str, Any] = {
        name: _float32(tensors[f"embeddings.{stored}.weight"]) for name, stored in _ROWS.items()
    }
    embeddings["norm"] = layer_norm(tensors, "embeddings.LayerNorm")
    params: dict[str, Any] = {"embeddings": embeddings}
    for number in range(config["num_hidden_layers"]):
        stored = f"encoder.layer.{number}"
        layer: dict[str, Any] = {"attention": {}}
        for path, name in _DENSE.items():
            place = layer if len(path) == 1 else layer[path[0]]
            place[path[-1]] = linear(tensors, f"{stored}.{name}")
        for name, norm in _NORMS.items():
            layer[name] = layer_norm(tensors, f"{stored}.{norm}")
        params[f"layers_{number}"] = layer
    if pooler:
        params["pooler"] = {"dense": linear(tensors, "pooler.dense")}
    return params


def linear(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Returns a linear layer as Flax has it: kernel (in, out) and bias."""
    return {
        "kernel": _float32(tensors[f"{name}.weight"]).T,
        "bias": _float32(tensors[f"{name}.bias"]),
    }


def layer_norm(tensors: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Returns a layer norm as Flax has it: scale and bias."""
    return {
        "scale": _float32(tensors[f"{name}.weight"]),
        "bias": _float32(tensors[f"{name}.bias"]),
    }


def norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a layer norm's tensors by their names."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _float32(tensor: np.ndarray) -> np.ndarray:
    return np.asarray(tensor, np.float32)


def _folder_of_package(name: str) -> Path | None:
    """Returns the one folder with a model in an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    for root in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(root).rglob("config.json")):
            if any(file.parent.glob("*.safetensors*")):
                return file.parent
    return None


def _folder_of_hub(name: str) -> Path:
    """Downloads a model, or takes it from the cache."""
    from huggingface_hub import snapshot_download  # slow to import, and not always needed

    try:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub's errors share no base class with those of its transport
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{name!r} is no folder and no installed package with a model, and the hub does not "
            f"give it: {reason}"
        ) from error


def few(names: Iterable[str]) -> str:
    """Lists the first names, in printable letters, and counts the others."""
    listed = [shown(name) for name in names]
    more = f", and {len(listed) - SHOWN_KEYS} more" if len(listed) > SHOWN_KEYS else ""
    return ", ".join(listed[:SHOWN_KEYS]) + more


def _print(line: str) -> None:
    print(line, file=sys.stderr)
