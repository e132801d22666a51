"""Loops for the CPU: generated as LLVM code, and called by XLA through its foreign functions."""

from common.kernels.native.backward import emit_backward
from common.kernels.native.foreign import call_native, why_unavailable
from common.kernels.native.forward import emit_forward
from common.kernels.native.plan import Plan

__all__ = ["Plan", "call_native", "emit_backward", "emit_forward", "why_unavailable"]
