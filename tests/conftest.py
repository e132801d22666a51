"""Sets the tests up: on the CPU with several devices, offline, and strict about ranks."""

import os
import signal

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import jax

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")

# A program that a shell starts with & ignores interrupts, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
