"""Parameters of a checkpoint file for a model that is at hand."""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from common.array_types import PyTree
from common.checkpoints.digests import named_leaves
from common.checkpoints.files import find_checkpoint, load_checkpoint
from common.checkpoints.matching import MAX_NAMES, describe_mismatch
from common.checkpoints.refusal import Refusal
from common.errors import DataError, shown
from common.files import StrPath


def load_into(path: StrPath, template: PyTree) -> PyTree:
    """Reads parameters that must have the names, shapes and dtypes of a model's.

    Nothing is cast: a dtype is the model's or the file is refused, also float64 for float32, since
    a file of another width was not written from this model. Values that are not finite are loaded
    with a warning that names their parameters.

    Args:
        path: A pickle, a safetensors file, a Hugging Face folder, or a folder of Orbax, see
            `load_checkpoint`; either {'params': ..., ...} or the parameters themselves.
        template: Parameters, or all variables of a model ('params' being one of its keys), as
            arrays or as `jax.ShapeDtypeStruct`s.

    Returns:
        NumPy arrays in the structure of `template`.

    Raises:
        DataError: The file cannot be used, see `load_checkpoint`; or it does not fit, with at most
            20 of the names that differ, on either side.
    """
    place, _ = find_checkpoint(path)
    content = load_checkpoint(path)
    try:
        saved = _parameters(content, template)
        if problem := describe_mismatch(saved, template):
            raise Refusal(f"does not fit: {problem}")
        leaves = named_leaves(saved)
        names = named_leaves(template).keys()
        if leaves.keys() != names:
            raise Refusal("does not fit: keys with '/' in them divide its names otherwise")
    except Refusal as refusal:
        raise DataError(f"{place}: {refusal}") from None
    _warn_of_nonfinite(leaves, str(place))
    return jax.tree.unflatten(jax.tree.structure(template), [leaves[name] for name in names])


def _parameters(content: Mapping[str, Any], template: PyTree) -> dict[str, PyTree]:
    """Returns the part of a content that stands for `template`, as dicts of arrays by text."""
    wants_variables = isinstance(template, Mapping) and "params" in template
    if "params" in content and not wants_variables:
        return _arrays(content["params"], "params")
    if "params" in content:
        return {name: _arrays(content[name], name) for name in template if name in content}
    return _arrays(content, "")


def _arrays(value: Any, place: str) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        raise Refusal(f"{place or 'the whole'} is a {type(value).__name__}; expected arrays")
    named = {str(key): _arrays(inner, f"{place}/{shown(str(key))}") for key, inner in value.items()}
    if len(named) < len(value):
        raise Refusal(f"{place or 'the whole'} has the same key as a number and as text")
    return named


def _warn_of_nonfinite(leaves: Mapping[str, np.ndarray], where: str) -> None:
    if names := [name for name, array in leaves.items() if not np.isfinite(array).all()]:
        listed = ", ".join(names[:MAX_NAMES])
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        warnings.warn(
            f"{where}: values that are not finite in {listed}{more}", RuntimeWarning, stacklevel=3
        )
