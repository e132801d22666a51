"""Pseudo-perplexity as one more statistic of the model of pairs: computed once, kept, refused."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alcnet import PERPLEXITY
from common.checkpoints.tensors import load_safetensors, save_safetensors
from common.data.pairs import FolderTokens, WordTokens
from common.errors import UserError
from experiments.tasks import perplexity
from experiments.tasks.rte import make_task
from tests.alcnet.test_encoder import GOLDEN
from tests.experiments.test_rte import tiny

pytestmark = pytest.mark.usefixtures("quick_compilation")
FRAME = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_folder(folder, change=0.0, source="bert_tiny_legacy"):
    """Writes an encoder with a tokenizer that knows the words of the generated facts."""
    shutil.copytree(GOLDEN / source, folder)
    file = folder / "model.safetensors"
    tensors = load_safetensors(file)
    if change:
        tensors["cls.predictions.bias"] = tensors["cls.predictions.bias"] + np.float32(
            change * np.arange(100)
        )
        save_safetensors(file, tensors, overwrite=True)
    (folder / "vocab.txt").write_text("\n".join((*FRAME, *WordTokens.words)))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("model") / "bert")


def config_of(folder, cache, **overrides):
    chosen = {
        "encoder.folder": str(folder), "data.cache": str(cache), "data.lengths": (20, 24),
        "data.train_count": 6, "data.validation_count": 4, "data.test_count": 0,
        "model.perplexity": True, "model.branches": ("cls", "stats"),
    }  # fmt: skip
    return tiny(**(chosen | overrides))


def test_it_is_attached_to_every_example_and_kept(folder, tmp_path, monkeypatch, capsys):
    config = config_of(folder, tmp_path / "cache")
    task = make_task(config)
    assert capsys.readouterr().err.count("log pseudo-perplexity of ") == 2
    source = task.train_source
    batch = source.__getitems__(np.arange(6))
    values = batch[PERPLEXITY]
    assert values.dtype == np.float32 and values.shape == (6,) and np.ptp(values) > 1e-3
    assert source[2][PERPLEXITY] == values[2] == source.first(3)[2][PERPLEXITY]
    found = perplexity.open_perplexity(config)
    alone = jax.jit(found.measure)(*found.variables, *(batch[k][:1] for k in perplexity.INPUTS))
    np.testing.assert_allclose(values[0], alone[0], atol=2e-5)

    def never(self, source):
        raise AssertionError("computed again")

    monkeypatch.setattr(perplexity.PairPerplexity, "compute", never)
    again = make_task(config)
    assert again.train_source.fingerprint == source.fingerprint
    without = make_task(config_of(folder, tmp_path / "cache", **{"model.perplexity": False}))
    assert without.train_source.fingerprint != source.fingerprint
    assert PERPLEXITY not in without.train_source[0]
    other = make_folder(tmp_path / "other", change=0.1)
    with pytest.raises(AssertionError, match="computed again"):
        make_task(config_of(other, tmp_path / "cache"))
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert make_task(config_of(moved, tmp_path / "cache")).train_source[0][PERPLEXITY] == values[0]


def test_the_model_reads_it(folder, tmp_path):
    task = make_task(config_of(folder, tmp_path / "cache"))
    params = jax.jit(task.init)(jax.random.key(0))
    assert params["statistics"]["expand"]["kernel"].shape[0] == 15 + 1
    batch = task.train_source.__getitems__(np.arange(4))
    decide = jax.jit(task.decide)
    out = decide(params, batch)
    moved = decide(params, batch | {PERPLEXITY: batch[PERPLEXITY] + 3})
    np.testing.assert_array_equal(out.features["cls"], moved.features["cls"])
    assert float(jnp.abs(out.features["stats"] - moved.features["stats"]).max()) > 1e-3
    read = jax.jit(
        lambda p, inputs: task.model.apply({"params": p}, **inputs, method="read")[0].statistics
    )
    np.testing.assert_array_equal(read(params, task.inputs(batch))[:, -1], batch[PERPLEXITY])


@pytest.mark.parametrize(
    ("source", "override", "message"),
    [
        ("bert_tiny", {}, "encoder.folder '.*' has no such head$"),
        (None, {}, "encoder.folder is '', an encoder to be trained from nothing"),
        ("bert_tiny_legacy", {"model.branches": ("cls",)}, "has neither 'stats' nor 'film'"),
    ],
)
def test_a_model_that_cannot_have_it(tmp_path, source, override, message):
    chosen = make_folder(tmp_path / "model", source=source) if source else ""
    with pytest.raises(UserError, match=message) as caught:
        make_task(config_of(chosen, tmp_path, **override))
    text = str(caught.value)
    assert text.startswith("model.perplexity is True; expected a pretrained encoder with a head")
    assert "\n" not in text


def test_the_tokenizer_names_what_frames_a_text(folder):
    tokens = FolderTokens(folder)
    assert (tokens.pad_id, tokens.mask_id, tokens.frame_ids) == (0, 4, (0, 2, 3))
    with pytest.raises(ValueError, match=r"it is \(2,\); expected \(3,\)"):
        source = make_task(tiny(**{"data.train_count": 3})).train_source
        source.with_numbers("it", np.zeros(2))
