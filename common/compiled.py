"""What a compiled function says of itself."""

import jax
from jax.stages import Compiled


def temporary_bytes(compiled: Compiled) -> int:
    """Returns the most memory that a function holds at once beside its arguments and results.

    Raises:
        NotImplementedError: the platform does not tell.
    """
    memory = compiled.memory_analysis()
    if memory is None:
        raise NotImplementedError(f"no memory analysis on {jax.default_backend()}")
    return int(memory.temp_size_in_bytes)
