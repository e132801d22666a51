"""Measurements for a machine with a GPU and little else: one command of ten minutes each.

    python -m experiments.gpu.kernels
    python -m experiments.gpu.throughput
    python -m experiments.gpu.pathfinder14     # twice: the second goes on where the first stopped

jax, flax, optax, orbax-checkpoint, numpy and ml-collections are enough, see
`experiments.gpu.bare`. Each writes JSON under runs/gpu. Without a GPU everything runs on the CPU in
a shrunken form, and the JSON says that it was not yet run on one.
"""

from experiments.gpu.bare import allow_missing

MISSING = allow_missing()
"""Dependencies that are not installed here; importing this package lets the others do without."""
