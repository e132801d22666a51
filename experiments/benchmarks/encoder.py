"""Times an encoder with all maps out, and what keeping the maps costs in memory.

    python -m experiments.benchmarks.encoder [--quick] [--out=FILE] [--torch=PYTHON]

The encoder has the shape of MiniLM-L6 with random weights. 'forward' gives hidden states and maps;
'step' is the gradient of all parameters, through hidden states and maps, without an update. With
--torch, an interpreter that has torch and transformers, the same is measured there, in eager
attention with one thread and with two, in turn with the rows here; this program needs neither.

Memory is the compiler's account of temporaries of a training step of a CNN that reads all layers'
maps: 'maps kept' hands the whole maps to it, 'layer by layer' reads each layer's regions inside the
layer and computes layers again for the gradient.
"""

import argparse
import json
import math
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
from experiments.benchmarks.timing import Compiled, measure_in_turn, print_table, write_json

SIZES = {"vocabulary": 30522, "positions": 512, "width": 384, "heads": 12, "hidden": 1536}
LAYERS, REGIONS = 6, 16
CASES = {"8x128": (8, 128), "16x96": (16, 96), "16x64": (16, 64)}
QUICK = ("16x64",)
REPEATS, QUICK_REPEATS = 7, 3

TORCH = """
import json, sys, time, torch
from transformers import BertConfig, BertModel
batch, length, threads, repeats = map(int, sys.argv[1:])
torch.set_num_threads(threads)
config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
    intermediate_size=1536, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    attn_implementation="eager")
model = BertModel(config)
ids = torch.randint(1, 30000, (batch, length))
mask = torch.ones(batch, length, dtype=torch.long)
def call():
    return model(ids, mask, output_attentions=True, output_hidden_states=True)
def forward():
    with torch.no_grad():
        call()
def step():
    model.zero_grad()
    out = call()
    ((out.last_hidden_state ** 2).mean() + sum((a ** 2).mean() for a in out.attentions)).backward()
found = {"torch": torch.__version__}
for name, function in (("forward", forward), ("step", step)):
    function()
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    found[name] = [1e3 * sorted(column)[len(column) // 2] for column in zip(*times)]
print(json.dumps(found))
"""


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Times an encoder with all maps out.")
    parser.add_argument("--quick", action="store_true", help="one case, fewer repeats")
    parser.add_argument("--torch", metavar="PYTHON", help="interpreter with torch, transformers")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/encoder.json"))
    flags = parser.parse_args()
    repeats = QUICK_REPEATS if flags.quick else REPEATS
    rows = []
    for name in QUICK if flags.quick else CASES:
        rows += time_case(name, *CASES[name], repeats, flags.torch)
    print_table(rows)
    memory = [measure_memory(name, *CASES[name]) for name in (QUICK if flags.quick else CASES)]
    print_table(memory)
    write_json(flags.out, [*rows, *memory])
    return 0


def time_case(
    name: str, batch: int, length: int, repeats: int, torch: str | None
) -> list[dict[str, Any]]:
    """Returns the rows of one shape: times here and, where asked for, in torch."""
    encoder, ids, mask = make_encoder(False), *_inputs(batch, length)
    params = jax.jit(encoder.init)(jax.random.key(0), ids)["params"]

    def forward(params: PyTree) -> Any:
        return encoder.apply({"params": params}, ids, mask)

    def loss(params: PyTree) -> Array:
        out: Any = encoder.apply({"params": params}, ids, mask)
        return (out.last_hidden_state**2).mean() + sum((a**2).mean() for a in out.attentions)

    functions: dict[str, Callable] = {"forward": forward, "step": jax.grad(loss)}
    compiled = {key: Compiled(function, params) for key, function in functions.items()}
    before = _torch_rows(name, batch, length, repeats, torch)
    measured = measure_in_turn(list(compiled.values()), repeats)
    after = _torch_rows(name, batch, length, repeats, torch)
    rows = [
        {"case": name, "pass": key, "with": "jax", "wall_ms": m.wall_ms, "cpu_ms": m.cpu_ms}
        for key, m in zip(compiled, measured, strict=True)
    ]
    for first, second in zip(before, after, strict=True):
        times = {k: min(first[k], second[k]) for k in ("wall_ms", "cpu_ms")}
        own = next(row for row in rows if row["pass"] == first["pass"])
        ratio = {"torch / jax, wall": times["wall_ms"] / own["wall_ms"]}
        ratio["torch / jax, CPU"] = times["cpu_ms"] / own["cpu_ms"]
        rows.append(first | times | ratio)
    return rows


def _torch_rows(
    name: str, batch: int, length: int, repeats: int, python: str | None
) -> list[dict[str, Any]]:
    """Returns the times in torch with one thread and with two; none without an interpreter."""
    rows = []
    for threads in (1, 2) if python else ():
        arguments = [str(python), "-c", TORCH, *map(str, (batch, length, threads, repeats))]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{python}: {(done.stderr.splitlines() or ['failed'])[-1]}")
        found = json.loads(done.stdout.splitlines()[-1])
        for key in ("forward", "step"):
            label = f"torch {found['torch']}, {threads} threads"
            times = dict(zip(("wall_ms", "cpu_ms"), found[key], strict=True))
            rows.append({"case": name, "pass": key, "with": label} | times)
    return rows


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

        memory = jax.jit(jax.grad(loss)).lower(params).compile().memory_analysis()
        found[key] = memory.temp_size_in_bytes / 1e6 if memory else math.nan
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


def make_encoder(remat: bool) -> Encoder:
    """Builds the encoder; with `remat`, layers are computed again for their gradient."""
    embeddings = Embeddings(SIZES["vocabulary"], SIZES["positions"], 2, SIZES["width"])
    layers = tuple(EncoderLayer(SIZES["heads"], SIZES["hidden"]) for _ in range(LAYERS))
    return Encoder(embeddings, layers, None, remat)


def _inputs(batch: int, length: int) -> tuple[Array, Array]:
    ids = np.random.default_rng(0).integers(1, 30_000, (batch, length))
    return jnp.asarray(ids), jnp.ones((batch, length), jnp.int32)


if __name__ == "__main__":
    sys.exit(main())
