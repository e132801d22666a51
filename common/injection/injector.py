"""Puts a mechanism before any layers of any decoder, which need not know of it.

Where a vision feature enters matters; these positions make that a variable of a study. Sources of
the question: the notes' early / middle / late injection; Flamingo's every k-th layer.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flax import linen as nn

from common.array_types import PyTree

METHODS = ("__call__", "extend")
"""Methods of a layer that take its input first: whole sequences, and pieces of them."""


def early_layers(depth: int, count: int) -> tuple[int, ...]:
    """Returns the first `count` of `depth` layers."""
    _require_count(depth, count)
    return tuple(range(count))


def middle_layers(depth: int, count: int) -> tuple[int, ...]:
    """Returns `count` layers in the middle of `depth`; the earlier ones where that is not even."""
    _require_count(depth, count)
    first = (depth - count) // 2
    return tuple(range(first, first + count))


def late_layers(depth: int, count: int) -> tuple[int, ...]:
    """Returns the last `count` of `depth` layers."""
    _require_count(depth, count)
    return tuple(range(depth - count, depth))


def every_kth_layer(depth: int, period: int, first: int = 0) -> tuple[int, ...]:
    """Returns layers first, first + period, ...

    Raises:
        ValueError: a period below 1, or a first layer that is none of them.
    """
    if period < 1 or not 0 <= first < depth:
        raise ValueError(f"every {period} layers from {first} of {depth}")
    return tuple(range(first, depth, period))


class Injector(nn.Module):
    """x_i = layer_i(mechanism_i(x_{i-1}, *context)) at the chosen layers of a decoder.

    The decoder is used as it is: its call is intercepted where a chosen layer takes its input. A
    layer is known by its name among the decoder's sub-modules, such as 'layers_3'; it may be called
    through `__call__` or, for pieces of a sequence, through `extend`. Layers inside a lifted
    transformation (`nn.scan`, `nn.remat`) cannot be reached so: JAX complains of leaked tracers.

    Attributes:
        decoder: any module.
        mechanisms: one for each place; called as mechanism(x, *context). One module that stands
            there twice shares its parameters.
        places: names of the layers that the mechanisms stand before.
    """

    decoder: nn.Module
    mechanisms: tuple[nn.Module, ...]
    places: tuple[str, ...]

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: not one place for each mechanism, or one place twice.
        """
        super().__post_init__()
        if len(self.mechanisms) != len(self.places) or len(set(self.places)) < len(self.places):
            raise ValueError(f"{len(self.mechanisms)} mechanisms for the places {self.places}")

    def __call__(
        self,
        *inputs: Any,
        context: tuple[Any, ...] = (),
        decoder_method: str = "__call__",
        **options: Any,
    ) -> PyTree:
        """Calls the decoder with the mechanisms in place.

        Args:
            *inputs: of the decoder's method.
            context: what each mechanism is given after its layer's input: features, masks.
            decoder_method: name of the decoder's method, such as 'extend'.
            **options: keyword arguments of that method.

        Raises:
            ValueError: a place is none of the layers that the decoder called.
        """
        mechanisms = dict(zip(self.places, self.mechanisms, strict=True))
        with _before(self.decoder, mechanisms, context) as met:
            result = getattr(self.decoder, decoder_method)(*inputs, **options)
        if missing := [place for place in self.places if place not in met]:
            known = sorted({path.partition("/")[0] for path in met if path})
            raise ValueError(f"no layers {missing} were called; there are {known}")
        return result


def layer_names(numbers: tuple[int, ...]) -> tuple[str, ...]:
    """Returns the names that Flax gives to the modules of a tuple: 'layers_3' for 3."""
    return tuple(f"layers_{number}" for number in numbers)


@contextmanager
def _before(
    decoder: nn.Module, mechanisms: dict[str, nn.Module], context: tuple[Any, ...]
) -> Iterator[set[str]]:
    """Applies the mechanisms to the inputs of their layers; yields the names of layers called."""
    met: set[str] = set()
    busy: set[str] = set()

    def intercept(
        call: Callable, inputs: tuple, options: dict, about: nn.module.InterceptorContext
    ) -> Any:
        path = _path_below(decoder, about.module)
        if path is None or about.method_name not in METHODS:
            return call(*inputs, **options)
        met.add(path)
        if path not in mechanisms or path in busy:
            return call(*inputs, **options)
        busy.add(path)  # a layer whose extend calls its own __call__ is one layer
        try:
            x, *others = inputs
            return call(mechanisms[path](x, *context), *others, **options)
        finally:
            busy.discard(path)

    with nn.intercept_methods(intercept):
        yield met


def _path_below(decoder: nn.Module, module: nn.Module) -> str | None:
    """Returns the names that lead from a decoder to a module in it, None if it is not in it."""
    root, path = decoder.path, module.path
    return "/".join(path[len(root) :]) if path[: len(root)] == root else None


def _require_count(depth: int, count: int) -> None:
    if not 0 < count <= depth:
        raise ValueError(f"{count} of {depth} layers; expected 1 to {depth}")
