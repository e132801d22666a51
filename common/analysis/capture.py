"""Named intermediates of a model: one forward pass, one flat dictionary."""

from collections.abc import Iterator, Mapping
from typing import Any

from flax import linen as nn

from common.array_types import Array, PyTree

COLLECTION = "intermediates"


def capture(
    model: nn.Module, variables: Mapping[str, PyTree], x: Array
) -> tuple[Array, dict[str, Array]]:
    """Runs one forward pass and keeps everything that the model sows into 'intermediates'.

    May run inside `jax.jit`; what the caller then drops is not computed.

    Args:
        model: any Linen module that maps `x` to one array.
        variables: its collections, e.g. {'params': params}.
        x: its input.

    Returns:
        The model's output, and the intermediates by the path of the module and their own name,
        joined by slashes: 'pre_cssm', 'cssm_0/states', 'cssm_0/gates/decay_Q'. A name that was
        sown more than once carries its number: 'name/0', 'name/1'.
    """
    given = {name: value for name, value in variables.items() if name != COLLECTION}
    output, sown = model.apply(given, x, mutable=[COLLECTION])
    assert isinstance(output, Array)
    return output, dict(_flatten(sown.get(COLLECTION, {}), ""))


def _flatten(tree: Any, path: str) -> Iterator[tuple[str, Array]]:
    """Walks through dictionaries and the tuples that `sow` collects values in."""
    if isinstance(tree, tuple):
        tree = tree[0] if len(tree) == 1 else {str(i): value for i, value in enumerate(tree)}
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    for name, value in tree.items():
        yield from _flatten(value, f"{path}/{name}" if path else name)
