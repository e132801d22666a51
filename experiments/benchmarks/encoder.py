"""Times an encoder with all maps out, and what keeping the maps costs in memory.

    python -m experiments.benchmarks.encoder [--quick] [--out=FILE] [--peer=PYTHON]

The encoder has the shape of MiniLM-L6 with random weights. 'forward' gives hidden states and maps;
'step' is the gradient of all parameters, through hidden states and maps, without an update; both in
float32 and with activations in bfloat16. --peer names a Python that has torch and transformers,
which then runs the same (peers/encoder_step.py: eager attention, autocast, one thread and two), in
turn with the rows here; this program needs neither. Both keep the memory that they free, as runs
do (`common.train.keep_freed_memory`).

Memory is the compiler's account of temporaries of a training step of a CNN that reads all layers'
maps: 'maps kept' hands the whole maps to it, 'layer by layer' reads each layer's regions inside the
layer and computes layers again for the gradient.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alcnet import (
    ALCNet,
    ConcatFusion,
    Embeddings,
    Encoder,
    EncoderLayer,
    EqualRegions,
    make_attention_cnn,
    pair_mask,
    pool_maps,
    standardise,
)
from common.array_types import Array, PyTree
from common.compiled import temporary_bytes
from common.train import keep_freed_memory
from experiments.benchmarks.timing import Compiled, measure_in_turn, print_table, write_json

SIZES = {"vocabulary": 30522, "positions": 512, "width": 384, "heads": 12, "hidden": 1536}
LAYERS, REGIONS = 6, 16
CASES = {"8x128": (8, 128), "16x96": (16, 96), "16x64": (16, 64)}
QUICK = ("16x64",)
REPEATS, QUICK_REPEATS = 7, 3

PEER = Path(__file__).parent / "peers" / "encoder_step.py"
KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_MMAP_THRESHOLD_": str(2**29),
}
DTYPES = (jnp.float32, jnp.bfloat16)


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Times an encoder with all maps out.")
    parser.add_argument("--quick", action="store_true", help="one case, fewer repeats")
    parser.add_argument("--peer", metavar="PYTHON", help="interpreter with torch, transformers")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/encoder.json"))
    flags = parser.parse_args()
    keep_freed_memory()
    repeats = QUICK_REPEATS if flags.quick else REPEATS
    rows = []
    for name in QUICK if flags.quick else CASES:
        for dtype in DTYPES:
            rows += time_case(name, *CASES[name], dtype, repeats, flags.peer)
    print_table(rows)
    memory = [measure_memory(name, *CASES[name]) for name in (QUICK if flags.quick else CASES)]
    print_table(memory)
    write_json(flags.out, [*rows, *memory])
    return 0


def time_case(
    name: str, batch: int, length: int, dtype: Any, repeats: int, peer: str | None
) -> list[dict[str, Any]]:
    """Returns the rows of one shape and dtype: times here and, where asked for, in torch."""
    encoder, ids, mask = make_encoder(False, dtype), *_inputs(batch, length)
    params = jax.jit(encoder.init)(jax.random.key(0), ids)["params"]

    def forward(params: PyTree) -> Any:
        return encoder.apply({"params": params}, ids, mask)

    def loss(params: PyTree) -> Array:
        out: Any = encoder.apply({"params": params}, ids, mask)
        last = out.last_hidden_state.astype(jnp.float32)
        return (last**2).mean() + sum((a**2).mean() for a in out.attentions)

    functions: dict[str, Callable] = {"forward": forward, "step": jax.grad(loss)}
    compiled = {key: Compiled(function, params) for key, function in functions.items()}
    arguments = [str(batch), str(length), jnp.dtype(dtype).name, str(repeats)]
    before = _peer_times(peer, arguments)
    measured = measure_in_turn(list(compiled.values()), repeats)
    after = _peer_times(peer, arguments)
    rows = []
    for key, m in zip(compiled, measured, strict=True):
        row = {"case": name, "dtype": jnp.dtype(dtype).name, "pass": key}
        row |= {"wall_ms": m.wall_ms, "cpu_ms": m.cpu_ms}
        for threads, first in before.items():
            wall, cpu = (min(pair) for pair in zip(first[key], after[threads][key], strict=True))
            row |= {f"torch_{threads}_wall_ms": wall, f"torch_{threads}_cpu_ms": cpu}
            row |= {
                f"wall_ratio_{threads}": wall / m.wall_ms,
                f"cpu_ratio_{threads}": cpu / m.cpu_ms,
            }
        rows.append(row)
    return rows


def _peer_times(python: str | None, arguments: list[str]) -> dict[str, dict[str, list[float]]]:
    """Returns wall and processor time in torch by number of threads and pass, ms."""
    found = {}
    for threads in ("1", "2") if python else ():
        command = [str(python), str(PEER), *arguments, threads]
        done = subprocess.run(
            command,
            env=os.environ | KEEP_FREED_MEMORY,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{python}: {(done.stderr.splitlines() or ['failed'])[-1]}")
        found[threads] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_memory(name: str, batch: int, length: int) -> dict[str, Any]:
    """Returns temporaries (MB) of a step through a CNN, with all maps kept and layer by layer."""
    ids, mask = _inputs(batch, length)
    found = {}
    for key, model in (
        ("maps kept, MB", WholeMaps(make_encoder(False))),
        ("regions read, MB", Regions(make_encoder(False))),
        ("layer by layer, MB", Regions(make_encoder(True))),
    ):
        params = jax.eval_shape(model.init, jax.random.key(0), ids)

        def loss(params: PyTree, model: Any = model) -> Array:
            return model.apply(params, ids, mask).sum()

        found[key] = temporary_bytes(jax.jit(jax.grad(loss)).lower(params).compile()) / 1e6
    return {"case": name} | found


class Regions:
    """A CNN on the regions of maps, which are read inside of each layer."""

    def __init__(self, encoder: Encoder):
        self.model = ALCNet(
            encoder,
            ConcatFusion(2, ("cnn",)),
            cnn=make_attention_cnn(),
            regions=EqualRegions(REGIONS),
        )

    def init(self, rng: Array, ids: Array) -> PyTree:
        """Draws the parameters."""
        return self.model.init(rng, ids)

    def apply(self, params: PyTree, ids: Array, mask: Array) -> Array:
        """Returns the logits."""
        decision: Any = self.model.apply(params, ids, mask)
        return decision.logits


class WholeMaps(Regions):
    """The same computation from the encoder's maps, all of which are there at once."""

    def apply(self, params: PyTree, ids: Array, mask: Array) -> Array:
        """Returns the logits."""
        inner = params["params"]
        out: Any = self.model.encoder.apply({"params": inner["encoder"]}, ids, mask)
        regions = self.model.regions(mask, jnp.zeros_like(ids))
        whole = jax.lax.optimization_barrier(out.attentions)
        maps = jnp.stack([pool_maps(a, regions) for a in whole], 1)
        seen = pair_mask(regions.exist)
        assert self.model.cnn is not None
        features = self.model.cnn.apply({"params": inner["cnn"]}, standardise(maps, seen), seen)
        logits: Any = self.model.fusion.apply({"params": inner["fusion"]}, {"cnn": features}, True)
        return logits


def make_encoder(remat: bool, dtype: Any = jnp.float32) -> Encoder:
    """Builds the encoder; with `remat`, layers are computed again for their gradient."""
    counts = (SIZES["vocabulary"], SIZES["positions"], 2, SIZES["width"])
    embeddings = Embeddings(*counts, dtype=dtype)
    layer = EncoderLayer(SIZES["heads"], SIZES["hidden"], dtype=dtype)
    layers = tuple(layer.clone() for _ in range(LAYERS))
    return Encoder(embeddings, layers, None, remat)


def _inputs(batch: int, length: int) -> tuple[Array, Array]:
    ids = np.random.default_rng(0).integers(1, 30_000, (batch, length))
    return jnp.asarray(ids), jnp.ones((batch, length), jnp.int32)


if __name__ == "__main__":
    sys.exit(main())
