"""The head for masked words against the public one, and pseudo-perplexity against a plain loop."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alcnet
from common.checkpoints.tensors import load_safetensors, save_safetensors
from common.errors import DataError
from tests.alcnet import loops
from tests.alcnet.test_encoder import GOLDEN, close, drop, expected, load, run

pytestmark = pytest.mark.usefixtures("quick_compilation")
LEGACY = GOLDEN / "bert_tiny_legacy"
MASK_ID, CLS, SEP = 99, 1, 2
rng = np.random.default_rng(11)


def rewrite(folder, rename=lambda name: name, more=None, **config):
    """Copies the folder with its tensors renamed, others added and its config changed."""
    shutil.copytree(LEGACY, folder)
    file = folder / "model.safetensors"
    tensors = {rename(name): tensor for name, tensor in load_safetensors(file).items()}
    save_safetensors(file, tensors | (more or {}), overwrite=True)
    text = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(text))
    return folder


def logits_of(folder, states):
    head, variables = alcnet.load_word_head(folder)
    return run(head, variables, states)


def test_the_logits_of_words_are_those_of_the_reference():
    want = expected("bert_tiny_legacy")
    encoder, variables = load("bert_tiny_legacy")
    inputs = (want["input_ids"], want["attention_mask"], want["token_type_ids"])
    states = run(encoder, variables, *inputs).last_hidden_state
    close(logits_of(LEGACY, states), want["prediction_logits"], 2e-4)


def roberta_name(name):
    old = {"cls.predictions.transform.": "lm_head.", "cls.predictions.": "lm_head."}
    for start, new in old.items():
        name = name.replace(start, new)
    return name.replace("lm_head.LayerNorm.gamma", "lm_head.layer_norm.weight").replace(
        "lm_head.LayerNorm.beta", "lm_head.layer_norm.bias"
    )


def test_the_head_of_roberta_has_other_names_and_always_gelu(tmp_path):
    states = expected("bert_tiny_legacy")["last_hidden_state"]
    folder = rewrite(tmp_path / "roberta", roberta_name, model_type="roberta", hidden_act="relu")
    close(logits_of(folder, states), logits_of(LEGACY, states), 1e-6)
    told = []
    alcnet.load_encoder(folder, tell=told.append)
    assert any("not used: 7 tensors: cls.seq_rel" in line and "lm_head" in line for line in told)


def test_the_head_of_bert_has_the_activation_of_its_encoder(tmp_path):
    states = expected("bert_tiny_legacy")["last_hidden_state"]
    other = logits_of(rewrite(tmp_path / "relu", hidden_act="relu"), states)
    assert np.abs(other - expected("bert_tiny_legacy")["prediction_logits"]).max() > 0.1


def test_a_decoder_of_its_own_is_taken(tmp_path):
    states = expected("bert_tiny_legacy")["last_hidden_state"]
    rows = rng.standard_normal((100, 32)).astype(np.float32)
    name = "cls.predictions.decoder."
    more = {f"{name}weight": rows, f"{name}bias": np.full(100, 9, np.float32)}
    folder = rewrite(tmp_path / "own", more=more)
    head, variables = alcnet.load_word_head(folder)
    np.testing.assert_array_equal(variables["params"]["decoder"], rows)
    tied, _ = alcnet.load_word_head(LEGACY)
    assert head == tied
    bias = load_safetensors(LEGACY / "model.safetensors")["cls.predictions.bias"]
    np.testing.assert_array_equal(variables["params"]["bias"], bias)
    drop(folder, tmp_path / "moved", "predictions.bias")
    _, moved = alcnet.load_word_head(tmp_path / "moved")
    assert (np.asarray(moved["params"]["bias"]) == 9).all()
    assert np.isfinite(run(head, moved, states)).all()


def test_what_is_no_head_is_told_in_one_line(tmp_path):
    with pytest.raises(alcnet.NoWordHead, match=r"bert_tiny: has no head for masked.* cls\.\*$"):
        alcnet.load_word_head(GOLDEN / "bert_tiny")
    drop(LEGACY, tmp_path / "part", "transform.dense")
    with pytest.raises(DataError, match="lacks 2 tensors of the head for masked words: dense.we"):
        alcnet.load_word_head(tmp_path / "part")
    untied = rewrite(tmp_path / "untied", tie_word_embeddings=False)
    with pytest.raises(DataError, match="lacks 1 tensors? of .*: decoder.weight"):
        alcnet.load_word_head(untied)
    more = {"cls.predictions.decoder.weight": np.zeros((90, 32), np.float32)}
    with pytest.raises(DataError, match=r"decoder.weight is \[90, 32\], expected \[100, 32\]"):
        alcnet.load_word_head(rewrite(tmp_path / "small", more=more))


@pytest.fixture(scope="module")
def scored():
    """The measure, compiled, with the parameters of encoder and head."""
    encoder, variables = load("bert_tiny_legacy")
    head, head_variables = alcnet.load_word_head(LEGACY)
    measure = alcnet.PseudoPerplexity(encoder, head, MASK_ID, (0, CLS, SEP), places=3)
    return measure, variables, head_variables


TEXTS = ([CLS, 17, 60, 9, SEP, 33, 8, SEP], [CLS, 5, SEP, 70, SEP], [CLS, SEP, SEP])


def padded(width):
    """Returns ids, mask and types of the texts; what is padded holds any ids."""
    ids = rng.integers(3, 90, (3, width))
    mask, types = np.zeros((3, width), int), np.zeros((3, width), int)
    for row, text in enumerate(TEXTS):
        ids[row, : len(text)], mask[row, : len(text)] = text, 1
        types[row, text.index(SEP) + 1 : len(text)] = 1
    return ids, mask, types


def test_pseudo_perplexity_against_a_plain_loop(scored):
    measure, variables, head_variables = scored
    config = json.loads((LEGACY / "config.json").read_text())
    params, head = (
        jax.tree.map(lambda x: np.asarray(x, np.float64), v["params"])
        for v in (variables, head_variables)
    )
    _, _, types = padded(8)
    wanted = []
    for text, kinds in zip(TEXTS, types, strict=True):
        surprise = []
        for place, token in enumerate(text):
            if token not in (CLS, SEP):
                hidden = np.array(text)
                hidden[place] = MASK_ID
                states = loops.encode(params, config, hidden, kinds[: len(text)])
                logits = loops.word_logits(head, states[place])
                surprise.append(np.log(np.exp(logits - logits[token]).sum()))
        wanted.append(np.mean(surprise) if surprise else 0.0)
    compiled = jax.jit(measure)
    found = compiled(variables, head_variables, *padded(8))
    assert found.dtype == jnp.float32 and found.shape == (3,)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    wide = compiled(variables, head_variables, *padded(11))
    np.testing.assert_allclose(wide, found, atol=2e-5)


def test_how_many_places_at_a_time_changes_nothing(scored):
    measure, variables, head_variables = scored
    at_once = jax.jit(dataclasses.replace(measure, places=20))
    found, wanted = (jax.jit(m)(variables, head_variables, *padded(8)) for m in (measure, at_once))
    np.testing.assert_allclose(found, wanted, atol=2e-5)
