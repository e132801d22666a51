"""Checkpoints become models: what is read off the shapes, what is told, and what is refused."""

import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.errors import DataError
from cssm import SimpleCSSM, checkpoint_to_model
from cssm.simple import BLOCKS
from cssm.upstream import content_to_model

GOLDEN = Path(__file__).parent / "golden" / "transformer_32_e8_k5"
HIDDEN = ("transformer_unbounded", "transformer_steady_gates", "transformer_stable")
READS = {f"transformer_read_{s}": "transformer_read_q" for s in "ka"}
READS |= {f"transformer_read_{s}": "transformer_read_qk" for s in ("qa", "ka")}
VISIBLE = READS | dict.fromkeys(HIDDEN, "transformer") | {"hgru_bi_stable": "hgru_bi"}
SIZES: dict[str, Any] = {"num_classes": 3, "embed_dim": 8, "kernel_size": 5}


def saved(path: Path, size: int = 16, training_args: Any = None, **arguments: Any) -> Path:
    """Writes a checkpoint of a model's initial shapes, filled with zeros."""
    model = SimpleCSSM(**(SIZES | arguments))
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    content: Any = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    content |= {"epoch": 3, "step": 40}
    if training_args is not None:
        content["training_args"] = training_args
    path.write_bytes(pickle.dumps(content))
    return path


def test_notebook_checkpoints_of_both_numpys_give_the_same_model() -> None:
    first, second = (
        checkpoint_to_model(GOLDEN / name) for name in ("checkpoint.pkl", "checkpoint_numpy1.pkl")
    )
    assert first[0] == second[0] == SimpleCSSM(2, 8, 1, "transformer", 5, origin="upstream")
    jax.tree.map(np.testing.assert_array_equal, first[1], second[1])


@pytest.mark.parametrize("cssm_type", BLOCKS)
def test_block_and_sizes_are_read_off_the_parameters(tmp_path: Path, cssm_type: str) -> None:
    """Reading out another state of as many cannot be seen, nor what has no parameters."""
    visible = VISIBLE.get(cssm_type, cssm_type)
    model, _ = checkpoint_to_model(saved(tmp_path / "x.pkl", cssm_type=cssm_type, depth=2))
    expected = SIZES | {"cssm_type": visible, "depth": 2, "origin": "upstream"}
    if cssm_type in ("no_fft", "spatial_attn"):  # no kernel
        del expected["kernel_size"]
    assert model == SimpleCSSM(**expected)


@pytest.mark.parametrize(
    "arguments",
    [
        {"norm_type": "batch"},
        {"pos_embed": "learnable"},
        {"pos_embed": "separate", "max_seq_len": 5},
    ],
)
def test_norms_and_learned_positions_are_seen(tmp_path: Path, arguments: dict) -> None:
    model, variables = checkpoint_to_model(saved(tmp_path / "x.pkl", 24, **arguments))
    assert model == SimpleCSSM(**SIZES, **arguments, origin="upstream")
    assert ("batch_stats" in variables) == ("norm_type" in arguments)
    logits: Any = jax.eval_shape(
        lambda v, x: model.apply(v, x, training=False), variables, jnp.zeros((2, 24, 24, 3))
    )
    assert logits.shape == (2, 3)


def test_training_arguments_tell_what_shapes_do_not(tmp_path: Path) -> None:
    args = {"seq_len": 6, "pos_embed": "temporal", "act_type": "gelu", "pool_type": "max"}
    args |= {"frame_readout": "all", "lr": 3e-4, "kernel_size": 99}
    path = saved(tmp_path / "x.pkl", training_args=args)
    told = {"seq_len": 6, "pos_embed": "temporal", "act": "gelu", "pool": "max", "readout": "all"}
    assert checkpoint_to_model(path)[0] == SimpleCSSM(**SIZES, **told, origin="upstream")


def test_the_config_of_an_own_run_tells_all(tmp_path: Path) -> None:
    """Also a boundary, with which gates have other sizes than the map has frequencies."""
    arguments = {"seq_len": 3, "act": "relu", "boundary": "zero", "cssm_type": "transformer_stable"}
    path = saved(tmp_path / "x.pkl", size=24, **arguments)
    config = {"model": {"name": "simple_cssm", **arguments}, "data": {"image_size": 24}}
    rewritten(path, lambda content: content.update(config=config))
    assert checkpoint_to_model(path)[0] == SimpleCSSM(**SIZES, **arguments)
    content = pickle.loads(path.read_bytes())
    assert content_to_model(content, seq_len=5)[0] == SimpleCSSM(
        **SIZES, **(arguments | {"seq_len": 5})
    )


def test_what_is_known_goes_before_all_else(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pkl", training_args={"seq_len": 6, "pos_embed": "temporal"})
    known = {"seq_len": 3, "act": "relu", "cssm_type": "transformer_unbounded", "origin": "centre"}
    model, _ = checkpoint_to_model(path, **known)
    assert model == SimpleCSSM(**SIZES, **known, pos_embed="temporal")


def rewritten(path: Path, change: Any) -> Path:
    content = pickle.loads(path.read_bytes())
    change(content)
    path.write_bytes(pickle.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("params"), r"has no 'params'; its keys are \['epoch', 'step'\]"),
        (lambda c: c["params"].pop("conv1"), r"not the parameters of a SimpleCSSM \(.*conv1"),
        (lambda c: c.update(params={"cssm_0": 3}), "not the parameters of a SimpleCSSM"),
        (
            lambda c: c["params"].update(body_norm_0={"scale": np.ones(8)}),
            "body_norm_0/scale is unknown to the model",
        ),
        (
            lambda c: c["params"]["cssm_0"].pop("gamma"),
            "gamma/bias is missing in the checkpoint; .*gamma/kernel is missing",
        ),
        (
            lambda c: c["params"]["norm1"].update(scale=np.zeros(7, np.float32)),
            r"norm1/scale is float32\(7\) in the checkpoint, float32\(8\) here",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change: Any, message: str) -> None:
    path = rewritten(saved(tmp_path / "x.pkl"), change)
    with pytest.raises(DataError, match=rf"x\.pkl: .*{message}"):
        checkpoint_to_model(path)


def test_contradicting_knowledge_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pkl")
    with pytest.raises(DataError, match="does not fit SimpleCSSM.*delta_gate/bias is missing"):
        checkpoint_to_model(path, cssm_type="gated")
    with pytest.raises(ValueError, match="pos_embed is 'magic'; choose one of"):
        checkpoint_to_model(path, pos_embed="magic")
