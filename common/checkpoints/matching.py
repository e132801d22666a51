"""Whether a saved tree is the tree that a model expects."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from common.array_types import PyTree
from common.checkpoints.digests import named_leaves

MAX_NAMES = 20
"""Largest number of parameters that a message about a mismatch names."""

MAX_CHARACTERS = 3500
"""Length after which such a message names no more."""


def describe_mismatch(saved: PyTree, expected: PyTree) -> str:
    """Names the leaves in which two trees of shapes and dtypes differ, at most 20 of them.

    Of leaves that are missing, unknown or of another type, each kind has its share of the names.
    Only names below 'params' are given if any of those differ, since the optimizer's state repeats
    them. A PRNG key counts as the integers beneath it. A dtype is never cast to fit.

    Returns:
        One line, or '' where the trees agree.
    """
    return describe_differences(leaf_types(saved), leaf_types(expected))


def describe_differences(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """Does as `describe_mismatch` does, for what `leaf_types` gives of two trees."""
    kinds = [
        {name: f"{name} is unknown to the model" for name in old.keys() - new.keys()},
        {name: f"{name} is missing in the checkpoint" for name in new.keys() - old.keys()},
        {
            name: f"{name} is {old[name]} in the checkpoint, {new[name]} here"
            for name in old.keys() & new.keys()
            if old[name] != new[name]
        },
    ]
    if any(name.startswith("params/") for kind in kinds for name in kind):
        kinds = [
            {name: line for name, line in kind.items() if name.startswith("params/")}
            for kind in kinds
        ]
    kinds = [kind for kind in kinds if kind]
    return "; ".join(_lines(kind, MAX_NAMES // len(kinds)) for kind in kinds)


def leaf_types(tree: PyTree) -> dict[str, str]:
    """Returns the type of each leaf by name, such as 'float32(3, 2)'."""
    leaves = {name: _plain(leaf) for name, leaf in named_leaves(tree).items()}
    return {
        name: f"{leaf.dtype}({', '.join(map(str, leaf.shape))})" for name, leaf in leaves.items()
    }


def _plain(leaf: Any) -> Any:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.eval_shape(jax.random.key_data, leaf)
    return leaf


def _lines(problems: dict[str, str], most: int) -> str:
    """Joins the problems in the order of their names, as many as there is room for."""
    lines: list[str] = []
    for name in sorted(problems)[:most]:
        if sum(map(len, lines)) + len(problems[name]) > MAX_CHARACTERS * most // MAX_NAMES:
            break
        lines.append(problems[name])
    if left := len(problems) - len(lines):
        lines.append(f"and {left} more")
    return "; ".join(lines)
