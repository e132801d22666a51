"""The head that tells masked words, and its weights from Hugging Face folders.

    y = LN(g(W x + b)),   logits = E y + c

E has a row for each word: it is the encoder's word table where a folder stores no other ("tied"). g
is the encoder's activation in BERT (Devlin et al. 2018, section 3.1, task 1) and the exact GELU in
RoBERTa (Liu et al. 2019), as the public modules have it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from alcnet.encoder import INIT
from alcnet.hf_weights import (
    few,
    find_folder,
    layer_norm,
    linear,
    modern_name,
    norm_shapes,
    read_config,
)
from common.array_types import Array, Float, PyTree
from common.checkpoints.tensors import check_shapes, load_hf_tensors
from common.errors import DataError
from common.files import StrPath
from common.kernels import exact_gelu
from common.nn import ACTIVATIONS, Dense, LayerNorm

WORD_TABLE = "embeddings.word_embeddings.weight"
NAMES = {
    "bert": {
        "cls.predictions.transform.dense.": "dense.",
        "cls.predictions.transform.LayerNorm.": "norm.",
        "cls.predictions.decoder.": "decoder.",
        "cls.predictions.bias": "bias",
    },
    "roberta": {
        "lm_head.dense.": "dense.",
        "lm_head.layer_norm.": "norm.",
        "lm_head.decoder.": "decoder.",
        "lm_head.bias": "bias",
    },
}
"""Where folders keep the parts of the head; the second kind is that of all kin of RoBERTa."""


class NoWordHead(DataError):
    """A folder whose encoder comes without a head for masked words."""


class WordHead(nn.Module):
    """Scores of all words at each place, from the last hidden state there.

    Attributes:
        vocabulary: number of words.
        activation: its nonlinearity.
        epsilon: of the layer norm.
        dtype: of activations; the logits are in float32 at least.
    """

    vocabulary: int
    activation: Callable[[Array], Array] = exact_gelu
    epsilon: float = 1e-12
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, states: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Returns the logits of the words."""
        width = states.shape[-1]
        y = self.activation(Dense(width, dtype=self.dtype, name="dense")(states))
        y = LayerNorm(self.dtype, epsilon=self.epsilon, name="norm")(y)
        rows = self.param("decoder", INIT, (self.vocabulary, width))
        bias = self.param("bias", nn.initializers.zeros, (self.vocabulary,))
        wide = jnp.promote_types(self.dtype, jnp.float32)
        logits = jnp.einsum(
            "...d,vd->...v", y, rows.astype(self.dtype), preferred_element_type=wide
        )
        return logits + bias.reshape((1,) * (logits.ndim - 1) + bias.shape).astype(wide)


def load_word_head(
    folder: StrPath, *, dtype: Any = jnp.float32
) -> tuple[WordHead, dict[str, PyTree]]:
    """Reads the head for masked words that belongs to the encoder of a Hugging Face folder.

        encoder, variables = load_encoder("bert-base-uncased")
        head, head_variables = load_word_head("bert-base-uncased")
        states = encoder.apply(variables, input_ids, attention_mask).last_hidden_state
        logits = head.apply(head_variables, states)

    Args:
        folder: As for `load_encoder`.
        dtype: Of activations.

    Returns:
        The module and its variables, {'params': ...}; a tied word table is among them.

    Raises:
        UserError: No such folder, package or model.
        NoWordHead: The folder has no such head.
        DataError: The config is of another kind of model, or tensors of the head are missing or
            misshapen.
    """
    found = find_folder(folder)
    config = read_config(found)
    tensors = head_tensors(load_hf_tensors(found), config, str(found))
    check_shapes(tensors, expected_shapes(config), str(found))
    bert = config["model_type"] == "bert"
    module = WordHead(
        config["vocab_size"],
        ACTIVATIONS[config["hidden_act"]] if bert else exact_gelu,
        config["layer_norm_eps"],
        dtype,
    )
    params = {
        "dense": linear(tensors, "dense"),
        "norm": layer_norm(tensors, "norm"),
        "decoder": np.asarray(tensors["decoder.weight"], np.float32),
        "bias": np.asarray(tensors["bias"], np.float32),
    }
    return module, {"params": jax.tree.map(jnp.asarray, params)}


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor of the head; linear layers are (out, in)."""
    d, words = config["hidden_size"], config["vocab_size"]
    shapes = {"dense.weight": (d, d), "dense.bias": (d,), **norm_shapes("norm", d)}
    return shapes | {"decoder.weight": (words, d), "bias": (words,)}


def head_tensors(
    tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], where: str
) -> dict[str, np.ndarray]:
    """Picks the tensors of the head out of those of a checkpoint, under names of their own.

    A decoder that is stored is taken, be it that of the word table or not; the word table stands in
    for one that is not. Of two names of the bias the shorter one counts.

    Raises:
        NoWordHead: There is none of them.
        DataError: Some are missing, or no decoder is stored and the config says it is not tied.
    """
    names = NAMES["bert" if config["model_type"] == "bert" else "roberta"]
    modern = {modern_name(name): tensor for name, tensor in tensors.items()}
    found = {
        own + name.removeprefix(stored): tensor
        for name, tensor in modern.items()
        for stored, own in names.items()
        if name.startswith(stored)
    }
    if not found:
        stem = next(iter(names)).partition(".")[0]
        raise NoWordHead(f"{where}: has no head for masked words; expected tensors {stem}.*")
    if (bias := found.pop("decoder.bias", None)) is not None:
        found.setdefault("bias", bias)
    if config.get("tie_word_embeddings", True) and WORD_TABLE in modern:
        found.setdefault("decoder.weight", modern[WORD_TABLE])
    if missing := [name for name in expected_shapes(config) if name not in found]:
        raise DataError(
            f"{where}: lacks {len(missing)} tensors of the head for masked words: {few(missing)}"
        )
    return found
