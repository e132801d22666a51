"""What the names in a pickle of arrays stand for: code of this file, never what they name.

A name is permitted as a whole, module and all, or not at all.
"""

from typing import Any

import ml_dtypes
import numpy as np

from common.checkpoints.pickles.values import (
    PLAIN_DTYPES,
    SHORT_FLOATS,
    Array,
    Dict,
    Dtype,
    Frozen,
    Symbol,
    as_element,
    as_key,
    as_text,
    bytes_in,
    dict_in,
    make_array,
)
from common.checkpoints.refusal import Refusal
from common.errors import shown


def _call_dtype(args: tuple[Any, ...]) -> Dtype:
    code, *copying = (*args,) or (None,)
    if len(copying) > 2 or any(flag not in (0, 1) for flag in copying):
        raise Refusal("makes a dtype in an unknown way")
    if isinstance(code, Symbol) and code.name.startswith("ml_dtypes."):
        return Dtype(np.dtype(getattr(ml_dtypes, code.name.removeprefix("ml_dtypes."))))
    name = code.name if isinstance(code, Symbol) else as_text(code)
    if name not in PLAIN_DTYPES:
        raise Refusal(f"holds dtype {shown(name)}; expected plain numbers")
    return Dtype(PLAIN_DTYPES[name])


def _call_reconstruct(args: tuple[Any, ...]) -> Array:
    if len(args) != 3 or args[0] is not NDARRAY or args[1] != (0,) or as_text(args[2]) != "b":
        raise Refusal("begins an array in an unknown way")
    return Array()


def _call_scalar(args: tuple[Any, ...]) -> Any:
    if len(args) != 2:
        raise Refusal("makes a NumPy scalar in an unknown way")
    return make_array(args[0], (), args[1], "C")[()]


def _call_frombuffer(args: tuple[Any, ...]) -> Array:
    """Makes an array as protocol 5 writes it: order 'K' has the axes as they lie in memory."""
    if len(args) not in (4, 5):
        raise Refusal("makes an array from a buffer in an unknown way")
    data, dtype, shape, order, axes = (*args, None)[:5]
    order = as_text(order)
    if order == "K" and axes is not None:
        array = make_array(dtype, shape, data, "C")
        if not isinstance(axes, tuple) or not all(type(axis) is int for axis in axes):
            raise Refusal("holds an array whose axes are not whole numbers")
        if sorted(axes) != list(range(array.ndim)):
            raise Refusal("holds an array whose axes are in no order")
        return Array(array.transpose(axes))
    if order not in ("C", "F") or axes is not None:
        raise Refusal("holds an array in an order that does not exist")
    return Array(make_array(dtype, shape, data, order))


def _call_jax_array(args: tuple[Any, ...]) -> Array:
    """Makes an array from the NumPy array inside, whatever device it was on."""
    if len(args) != 4 or args[0] is not RECONSTRUCT or not isinstance(args[1], tuple):
        raise Refusal("makes a JAX array in an unknown way")
    _, how, state, typing = args
    if not isinstance(typing, dict) or not typing.keys() <= {"weak_type", "named_shape"}:
        raise Refusal("makes a JAX array of an unknown kind")
    array = _call_reconstruct(how)
    array.build(state)
    return array


def _call_encode(args: tuple[Any, ...]) -> bytes:
    """Makes bytes from text, one for each letter, as protocols 0 to 2 write them."""
    if len(args) != 2 or type(args[0]) is not str or as_text(args[1]) not in ("latin1", "latin-1"):
        what = shown(as_text(args[1])) if len(args) == 2 else "unknown"
        raise Refusal(f"encodes text as {what}; expected latin1")
    try:
        return args[0].encode("latin1")
    except UnicodeEncodeError:
        raise Refusal("encodes text as latin1 that is not") from None


def _call_bytes(args: tuple[Any, ...]) -> bytes:
    if args:
        raise Refusal("makes bytes in an unknown way")
    return b""


def _call_bytearray(args: tuple[Any, ...]) -> bytes | memoryview:
    if len(args) == 2:
        return _call_encode(args)
    data, *more = (*args,) or (b"",)
    if more:
        raise Refusal("makes a bytearray in an unknown way")
    return bytes_in(data, "a bytearray")


def _call_ordered_dict(args: tuple[Any, ...]) -> Dict:
    """Makes an `OrderedDict`; Python 2 gives its items here, as lists of two."""
    pairs, *more = (*args,) or ([],)
    if more or not isinstance(pairs, list):
        raise Refusal("makes an OrderedDict in an unknown way")
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise Refusal("makes an OrderedDict from what are not pairs")
    return Dict((as_key(key), value) for key, value in pairs)


def _call_default_dict(args: tuple[Any, ...]) -> Dict:
    """Makes a `defaultdict`, whose missing entries are no part of a checkpoint."""
    factory, *more = (*args,) or (None,)
    if more or not any(factory is known for known in (None, *FACTORIES.values())):
        raise Refusal("makes a defaultdict in an unknown way")
    return Dict()


def _call_frozen_dict(args: tuple[Any, ...]) -> Frozen:
    content, *more = (*args,) or ({},)
    if more:
        raise Refusal("makes a FrozenDict in an unknown way")
    return Frozen(dict_in(content))


def _call_set(args: tuple[Any, ...]) -> set:
    if not args:
        return set()
    items, *more = args
    if more or not isinstance(items, list):
        raise Refusal("makes a set in an unknown way")
    return {as_element(item) for item in items}


def _call_complex(args: tuple[Any, ...]) -> complex:
    if len(args) != 2 or not all(type(part) is float for part in args):
        raise Refusal("makes a complex number in an unknown way")
    return complex(*args)


NDARRAY = Symbol("numpy.ndarray")
RECONSTRUCT = Symbol("_reconstruct", _call_reconstruct)
FACTORIES = {
    name: Symbol(name)  # the last two are those of Python 2
    for name in ("dict", "list", "tuple", "str", "int", "float", "bool", "long", "unicode")
} | {"set": Symbol("set", _call_set)}

SYMBOLS: dict[tuple[str, str], Symbol] = {
    ("numpy", "ndarray"): NDARRAY,
    ("numpy", "dtype"): Symbol("numpy.dtype", _call_dtype),
    ("_codecs", "encode"): Symbol("_codecs.encode", _call_encode),
    ("collections", "OrderedDict"): Symbol("OrderedDict", _call_ordered_dict),
    ("collections", "defaultdict"): Symbol("defaultdict", _call_default_dict),
}
"""All that a pickle may name, by module and name."""

for _core in ("numpy.core", "numpy._core"):  # NumPy 1.x and 2.x
    SYMBOLS |= {
        (f"{_core}.multiarray", "_reconstruct"): RECONSTRUCT,
        (f"{_core}.multiarray", "scalar"): Symbol("scalar", _call_scalar),
        (f"{_core}.numeric", "_frombuffer"): Symbol("_frombuffer", _call_frombuffer),
    }
for _module, _name in (
    ("jax._src.array", "_reconstruct_array"),
    ("jax._src.device_array", "reconstruct_device_array"),  # jax 0.3
):
    SYMBOLS[_module, _name] = Symbol("JAX array", _call_jax_array)
for _module in ("flax.core.frozen_dict", "flax.core"):
    SYMBOLS[_module, "FrozenDict"] = Symbol("FrozenDict", _call_frozen_dict, Frozen)
for _name in SHORT_FLOATS:
    SYMBOLS["ml_dtypes", _name] = Symbol(f"ml_dtypes.{_name}")
for _module in ("builtins", "__builtin__"):  # Python 3 and 2
    SYMBOLS |= {(_module, name): factory for name, factory in FACTORIES.items()}
    SYMBOLS |= {
        (_module, "bytes"): Symbol("bytes", _call_bytes),
        (_module, "bytearray"): Symbol("bytearray", _call_bytearray),
        (_module, "frozenset"): Symbol("frozenset", lambda args: frozenset(_call_set(args))),
        (_module, "complex"): Symbol("complex", _call_complex),
    }
