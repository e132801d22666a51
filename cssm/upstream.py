"""Models from checkpoints: of the public research code (drewlinsley/CSSM), and of own runs."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp

from common.array_types import PyTree
from common.checkpoints import describe_mismatch, load_pickle
from common.errors import DataError
from common.nn import no_rotation
from cssm.model import SpectralClassifier
from cssm.simple import BLOCKS, SimpleCSSM

TRAINING_ARGS = {
    "seq_len": "seq_len",
    "pos_embed": "pos_embed",
    "act_type": "act",
    "pool_type": "pool",
    "frame_readout": "readout",
}
"""What cannot be seen in the parameters, by its name in the public code and in ours."""


def checkpoint_to_model(
    path: str | os.PathLike[str], **known: Any
) -> tuple[SpectralClassifier, dict[str, PyTree]]:
    """Builds the model that a pickled checkpoint belongs to.

    Of a checkpoint of the public code, widths, depth, block, kernel size, norm and learned position
    codes are read off the parameters; the rest comes from its 'training_args' where it has them,
    and otherwise is as in the notebooks, the defaults of `SimpleCSSM`. Kernels are laid out as
    there (origin 'upstream'). A checkpoint of a run of this project holds the run's 'config', which
    tells all of it.

    Args:
        path: the file; it is read without running code, see `common.checkpoints.load_pickle`.
        **known: arguments of `SimpleCSSM` that are known better, such as `pos_embed`, `seq_len`,
            `act` or `pool`.

    Returns:
        The model and its variables: `model.apply(variables, x, training=False)` gives logits.

    Raises:
        DataError: the file is no such checkpoint, or its parameters do not fit the model; the
            message lists names that are missing or unknown.
    """
    return content_to_model(load_pickle(path), os.fspath(path), **known)


def content_to_model(
    content: Mapping[str, Any], name: str = "checkpoint", **known: Any
) -> tuple[SpectralClassifier, dict[str, PyTree]]:
    """Does what `checkpoint_to_model` does, for the content of a file of any format.

    Args:
        content: what `common.checkpoints.load_checkpoint` returns.
        name: stands in errors.
        **known: as for `checkpoint_to_model`.

    Raises:
        DataError: as there.
    """
    model, variables, _ = _model_of(content, name, known)
    return model, variables


def describe_model(content: Mapping[str, Any]) -> str | None:
    """Says as which model the content of a checkpoint can be loaded, or returns None."""
    try:
        _, _, arguments = _model_of(content, "", {})
    except (DataError, ValueError, KeyError, AttributeError, IndexError, TypeError):
        return None
    arguments.pop("origin", None)  # not seen in the parameters
    return f"SimpleCSSM({_call(arguments)})"


def _model_of(
    content: Mapping[str, Any], name: str, known: Mapping[str, Any]
) -> tuple[SpectralClassifier, dict[str, PyTree], dict[str, Any]]:
    """Returns the model, its variables, and the arguments of `SimpleCSSM` that make it."""
    params = content.get("params")
    if not isinstance(params, dict):
        raise DataError(f"{name}: has no 'params'; its keys are {sorted(map(str, content))}")
    variables = {"params": params}
    if content.get("batch_stats"):
        variables["batch_stats"] = content["batch_stats"]
    arguments: dict[str, Any] = _of_run(content.get("config"))
    if not arguments:
        arguments |= {"origin": "upstream"} | _trained_with(content.get("training_args"))
    try:
        arguments |= _visible(variables)
    except (KeyError, AttributeError, IndexError, TypeError) as error:
        raise DataError(f"{name}: not the parameters of a SimpleCSSM ({error!r})") from error
    arguments |= known
    if "cssm_type" not in arguments:
        arguments["cssm_type"] = _fitting_block(
            arguments["embed_dim"], arguments.get("kernel_size", 1), params
        )
    model = SimpleCSSM(**arguments)
    if problem := _mismatch(model, variables, _image_shape(params, content.get("config"))):
        raise DataError(f"{name}: does not fit SimpleCSSM({_call(arguments)}): {problem}")
    return model, jax.tree.map(jnp.asarray, variables), arguments


def _of_run(config: Any) -> dict[str, Any]:
    """Returns the arguments that the config of a run of this project holds, or none."""
    model = config.get("model") if isinstance(config, Mapping) else None
    if not isinstance(model, Mapping) or model.get("name") != "simple_cssm":
        return {}
    return {name: value for name, value in model.items() if name != "name"}


def _trained_with(args: Any) -> dict[str, Any]:
    if not isinstance(args, Mapping):
        return {}
    return {ours: args[theirs] for theirs, ours in TRAINING_ARGS.items() if theirs in args}


def _visible(variables: Mapping[str, PyTree]) -> dict[str, Any]:
    """Reads arguments off the shapes of the parameters."""
    params = variables["params"]
    block = params["cssm_0"]
    seen = {
        "embed_dim": params["conv1"]["bias"].shape[0],
        "num_classes": params["head"]["bias"].shape[0],
        "depth": sum(name.startswith("cssm_") for name in params),
        "norm_type": "batch" if "batch_stats" in variables else "layer",
    }
    if kernels := [block[name] for name in ("kernel", "k_exc") if name in block]:
        seen["kernel_size"] = kernels[0].shape[-1]
    if "pos_embed" in params:
        seen["pos_embed"] = "learnable"
    if "temporal_embed" in params:
        seen |= {"pos_embed": "separate", "max_seq_len": params["temporal_embed"].shape[0]}
    return seen


def _fitting_block(width: int, kernel_size: int, params: Mapping[str, PyTree]) -> str:
    """Returns the first block with the checkpoint's parameters, or else with their names."""
    saved = params["cssm_0"]
    frames = jax.ShapeDtypeStruct((1, 1, *_map_size(params), width), jnp.float32)
    named = []
    for name, make in BLOCKS.items():
        block: Any = make(width, kernel_size, no_rotation)
        try:
            shapes: Any = jax.eval_shape(partial(block.init, steps=1), jax.random.key(0), frames)
        except ValueError:
            continue  # a width that this block cannot take
        if not describe_mismatch(saved, shapes["params"]):
            return name
        if jax.tree.structure(saved) == jax.tree.structure(shapes["params"]):
            named.append(name)
    return (*named, "transformer")[0]


def _mismatch(
    model: SpectralClassifier, variables: Mapping[str, PyTree], image: tuple[int, int]
) -> str:
    """Names the leaves in which model and checkpoint differ, or returns ''."""
    shape = jax.ShapeDtypeStruct((1, *image, 3), jnp.float32)
    try:
        wanted = cast(dict, jax.eval_shape(model.init, jax.random.key(0), shape))
        return describe_mismatch(variables, wanted)
    except ValueError as error:
        return str(error)


def _image_shape(params: Mapping[str, PyTree], config: Any) -> tuple[int, int]:
    """Returns height and width of images that the model takes: the run's, or others as good.

    A gate has one number for each frequency, h (w // 2 + 1) in all, from which h and w cannot be
    told; a map one column wide has as many for h = that number.
    """
    data = config.get("data") if isinstance(config, Mapping) else None
    if isinstance(data, Mapping) and isinstance(data.get("image_size"), int):
        return (data["image_size"], data["image_size"])
    height, width = _map_size(params)
    return (4 * height, 4 * width)


def _map_size(params: Mapping[str, Any]) -> tuple[int, int]:
    tables = [tree["pos_embed"] for tree in (params, params["cssm_0"]) if "pos_embed" in tree]
    if tables:
        return tables[0].shape[2:4]
    gate = params["cssm_0"].get("C_gate")
    return (1, 1) if gate is None else (gate["bias"].shape[0], 1)


def _call(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in arguments.items())
