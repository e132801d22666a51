"""How tests compile: quickly, as they compile much and compute little, or as users' programs do."""

import os
import subprocess
import sys

import jax

_OLDER_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
"""Chooses XLA's older code for fused loops, which takes half the time to compile."""


def compile_quickly() -> None:
    """Lets this process, and those that it starts, compile without optimisation.

    Called before JAX makes its devices. XLA ends a process whose flags it does not know, so that
    another process tries them first.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    given = os.environ.get("XLA_FLAGS", "")
    if _OLDER_EMITTERS not in given and _takes(f"{given} {_OLDER_EMITTERS}"):
        os.environ["XLA_FLAGS"] = f"{given} {_OLDER_EMITTERS}"


def _takes(flags: str) -> bool:
    tried = subprocess.run(
        [sys.executable, "-c", "import jax; jax.devices()"],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
    )
    return tried.returncode == 0


def optimised_jit(function, **options):
    """Compiles as for users, in tests that look at what the compiler makes of a kernel."""
    chosen = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
    if _OLDER_EMITTERS in os.environ.get("XLA_FLAGS", ""):
        chosen["xla_cpu_use_fusion_emitters"] = True
    return jax.jit(function, compiler_options=chosen, **options)
