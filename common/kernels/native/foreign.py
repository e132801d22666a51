"""Generated code as a foreign function of XLA.

XLA calls a handler with one pointer to a frame of 8-byte words, of which these are read (see
`xla/ffi/api/c_api.h`, which comes with jaxlib): the extension that asks for the version of the
interface, and the lists of argument and result buffers.
"""

import ctypes
import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import llvmlite.binding as llvm
from llvmlite import ir

from common.array_types import Array
from common.kernels.arrays import like_varying
from common.kernels.native.vectors import INDEX, POINTER, Value, index

MAJOR = 0
"""Major version of the interface, within which the frame stays as it is."""
EXTENSION, ARGUMENTS, RESULTS = 1, 9, 14
"""Words of the frame."""
DATA = 3
"""Word of a buffer that points to its numbers."""
METADATA, VERSION = 3, 3
"""Words: of the extension that asks for metadata, and of the metadata's version."""

Emit = Callable[[ir.IRBuilder, Any, list[Value], list[Value]], None]
"""Emits a function's body from a builder, a plan, and pointers to arguments and results."""


def why_unavailable() -> str | None:
    """Returns why generated code cannot be called here, or None where it can."""
    if (platform := jax.default_backend()) != "cpu":
        return f"it is for the CPU, and the platform is {platform!r}"
    if (version := _interface_version()) is None or version[0] != MAJOR:
        return f"it knows version {MAJOR} of XLA's foreign functions, and jaxlib's is {version}"
    return None


def call_native(
    emit: Emit, plan: Any, arguments: Sequence[Array], results: Sequence[jax.ShapeDtypeStruct]
) -> list[Array]:
    """Calls generated code on arrays.

    Args:
        emit: the generator.
        plan: what it needs to know besides; hashable, and its repr names all there is in it.
        arguments: arrays that the code reads; under `shard_map` all vary over the same axes.
        results: shapes and dtypes of those that it writes.
    """
    name = _target(emit, plan, len(arguments), len(results))
    call = jax.ffi.ffi_call(name, list(results), vmap_method="sequential")
    return [like_varying(x, arguments[0]) for x in call(*arguments)]


@functools.cache
def _target(emit: Emit, plan: Any, arguments: int, results: int) -> str:
    """Compiles and registers a function; returns the name by which XLA knows it."""
    function = f"{emit.__module__}.{emit.__name__}"
    digest = hashlib.sha256(f"{function} {plan} {_interface_version()}".encode()).hexdigest()
    module = ir.Module(digest)
    _emit_handler(module, emit, plan, arguments, results)
    address = _compile(str(module))
    name = f"{emit.__name__}_{digest[:32]}"
    handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(address)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    return name


def _emit_handler(module: ir.Module, emit: Emit, plan: Any, arguments: int, results: int) -> None:
    """Emits `void* handler(void* frame)`, which returns no error."""
    handler = ir.Function(module, ir.FunctionType(POINTER, [POINTER]), "handler")
    frame = handler.args[0]
    builder = ir.IRBuilder(handler.append_basic_block())
    nothing = ir.Constant(POINTER, None)
    extension = _word(builder, frame, EXTENSION)
    with builder.if_then(builder.icmp_unsigned("!=", extension, nothing)):
        metadata = _word(builder, extension, METADATA)
        place = builder.gep(metadata, [index(VERSION)], source_etype=INDEX)
        major, minor = _interface_version() or (MAJOR, 0)
        builder.store(index(major | minor << 32), place)
        builder.ret(nothing)
    read, written = (
        [_word(builder, _word(builder, buffers, i), DATA) for i in range(count)]
        for buffers, count in (
            (_word(builder, frame, ARGUMENTS), arguments),
            (_word(builder, frame, RESULTS), results),
        )
    )
    emit(builder, plan, read, written)
    builder.ret(nothing)


def _word(builder: ir.IRBuilder, array: Value, number: int) -> Value:
    """Loads a pointer."""
    place = builder.gep(array, [index(number)], source_etype=POINTER)
    return builder.load(place, typ=POINTER)


@functools.cache
def _interface_version() -> tuple[int, int] | None:
    """Returns the version of XLA's interface by the header that comes with jaxlib, or None."""
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h")
    text = header.read_text() if header.exists() else ""
    found = re.findall(r"#define XLA_FFI_API_(?:MAJOR|MINOR) (\d+)", text)
    return (int(found[0]), int(found[1])) if len(found) == 2 else None


_engines: list[llvm.ExecutionEngine] = []  # hold the code that XLA may call


def _compile(code: str) -> int:
    """Compiles a module for this processor; returns the handler's address."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
    )
    module = llvm.parse_assembly(code)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    passes = llvm.create_pass_builder(target, options)
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, target)
    engine.finalize_object()
    _engines.append(engine)
    return engine.get_function_address("handler")
