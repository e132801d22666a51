"""Times what language models are made of: maps, loss, attention, a training step, decoding.

    python -m experiments.benchmarks.language [--quick] [--cases=A,B] [--repeats=N] [--peer=PYTHON]

Each row is beside its reference in the same process: an affine map of channels beside matmul and
sum; the exact GELU and causal attention beside those of jax.nn; the cross-entropy over a large
vocabulary beside optax's on all logits; decoding with a cache beside calls of the whole model. The
training step is the seed's: d 512, 8 heads, 32 x 256 tokens of GPT-2's vocabulary, AdamW, clipping;
--peer names a Python that has torch, which then runs the same models (peers/language_step.py) in
turn with it.
"""

import argparse
import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from common.array_types import Array, PyTree
from common.kernels import exact_gelu, linear_cross_entropy, project
from common.nn import attend
from convattn import LanguageModel, Sizes, attn_attn, conv_attn, generate
from experiments.benchmarks.timing import Compiled, measure_in_turn, print_table, write_json

PEER = Path(__file__).parent / "peers" / "language_step.py"
VOCABULARY, WIDTH, HEADS, LENGTH, BATCH = 50_257, 512, 8, 256, 32
REPEATS, QUICK_REPEATS = 7, 2
BUILD: dict[str, Callable[[Sizes], LanguageModel]] = {
    "conv_attn": conv_attn,
    "attn_attn": functools.partial(attn_attn, depth=4),
}


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Times what language models are made of.")
    parser.add_argument("--quick", action="store_true", help="a batch of 2, fewer repeats")
    parser.add_argument("--cases", help=f"of {', '.join(CASES)}, with commas between them")
    parser.add_argument("--peer", help="a Python interpreter that has torch")
    parser.add_argument("--repeats", type=int, help=f"{REPEATS}, or {QUICK_REPEATS} if quick")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/language.json"))
    flags = parser.parse_args()
    names = flags.cases.split(",") if flags.cases else list(CASES)
    if unknown := set(names) - set(CASES):
        parser.error(f"no case {sorted(unknown)}; there are {list(CASES)}")
    batch, repeats = (2, QUICK_REPEATS) if flags.quick else (BATCH, REPEATS)
    repeats = flags.repeats or repeats
    rows = []
    for name in names:
        found = CASES[name](batch, repeats)
        if name == "training_step" and flags.peer:
            found = [beside_peer(row, flags.peer, batch, repeats) for row in found]
        print_table(found)
        rows += found
    write_json(flags.out, rows)
    return 0


def projection(batch: int, repeats: int) -> list[dict[str, Any]]:
    """Times an affine map to four times the channels, and its gradients."""
    rows = []
    for dtype in (jnp.float32, jnp.bfloat16):
        shapes = ((batch, LENGTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH,))
        x, matrix, bias = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(shapes))
        weight = jax.random.normal(jax.random.key(3), (batch, LENGTH, 4 * WIDTH), dtype)
        x = x.astype(dtype)

        def own(x, matrix, bias, weight):
            y = project(x, matrix.astype(x.dtype), bias.astype(x.dtype))
            return (y * weight).astype(jnp.float32).sum()

        def plain(x, matrix, bias, weight):
            y = jnp.matmul(x, matrix.astype(x.dtype)) + bias.astype(x.dtype).reshape(1, 1, -1)
            return (y * weight).astype(jnp.float32).sum()

        arrays = (x, matrix, bias, weight)
        found = [Compiled(jax.value_and_grad(f, (0, 1, 2)), *arrays) for f in (own, plain)]
        rows += _pair("projection", dtype, found, repeats)
    return rows


def gelu(batch: int, repeats: int) -> list[dict[str, Any]]:
    """Times the exact GELU of a feed-forward net and its gradient, here and in `jax.nn`."""
    rows = []
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jax.random.normal(jax.random.key(0), (batch, LENGTH, 4 * WIDTH), dtype)
        found = [
            Compiled(jax.value_and_grad(lambda x, f=f: (f(x) * x).astype(jnp.float32).sum()), x)
            for f in (exact_gelu, functools.partial(jax.nn.gelu, approximate=False))
        ]
        rows += _pair("gelu", dtype, found, repeats)
    return rows


def cross_entropy(batch: int, repeats: int) -> list[dict[str, Any]]:
    """Times the loss and its gradients, in pieces and on all logits at once."""
    rows = []
    for dtype in (jnp.float32, jnp.bfloat16):
        features = jax.random.normal(jax.random.key(0), (batch, LENGTH, WIDTH), dtype)
        table = 0.02 * jax.random.normal(jax.random.key(1), (VOCABULARY, WIDTH))
        labels = jax.random.randint(jax.random.key(2), (batch, LENGTH), 0, VOCABULARY)
        weights = jnp.full((batch, LENGTH), 1.0 / (batch * LENGTH))

        def pieces(features, table, labels=labels, weights=weights):
            return linear_cross_entropy(features, table, labels, weights).total

        def whole(features, table, labels=labels):
            logits = (features @ table.astype(features.dtype).T).astype(jnp.float32)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        found = [Compiled(jax.value_and_grad(f, (0, 1)), features, table) for f in (pieces, whole)]
        rows += _pair("cross_entropy", dtype, found, repeats)
    return rows


def attention(batch: int, repeats: int) -> list[dict[str, Any]]:
    """Times causal attention and its gradients, here and in `jax.nn`."""
    rows = []
    for dtype in (jnp.float32, jnp.bfloat16):
        shape = (batch, LENGTH, HEADS, WIDTH // HEADS)
        q, k, v = (jax.random.normal(jax.random.key(i), shape, dtype) for i in range(3))

        def direct(q, k, v):
            return attend(q, k, v, causal=True).astype(jnp.float32).sum()

        def usual(q, k, v):
            return jax.nn.dot_product_attention(q, k, v, is_causal=True).astype(jnp.float32).sum()

        found = [Compiled(jax.value_and_grad(f, (0, 1, 2)), q, k, v) for f in (direct, usual)]
        rows += _pair("attention", dtype, found, repeats)
    return rows


def training_step(batch: int, repeats: int) -> list[dict[str, Any]]:
    """Times a training step at the seed's shapes."""
    rows = []
    for name, build in BUILD.items():
        for dtype in (jnp.float32, jnp.bfloat16):
            model = build(Sizes(VOCABULARY, WIDTH, HEADS, LENGTH, dtype=dtype))
            tokens = jax.random.randint(jax.random.key(2), (batch, LENGTH + 1), 0, VOCABULARY)
            params = jax.jit(model.init)(jax.random.key(0), tokens[:, :-1])["params"]
            optimizer = optax.chain(
                optax.clip_by_global_norm(1.0), optax.adamw(3e-4, weight_decay=0.01)
            )
            step = functools.partial(_step, model, optimizer)
            compiled = Compiled(step, params, jax.jit(optimizer.init)(params), tokens)
            (measured,) = measure_in_turn([compiled], repeats)
            row = {"case": "training_step", "model": name, "dtype": jnp.dtype(dtype).name}
            rows.append({**row, "cpu_ms": measured.cpu_ms, "wall_ms": measured.wall_ms,
                         "tokens_per_s": 1e3 * batch * LENGTH / measured.wall_ms,
                         "temporary_mb": measured.temporary_mb})  # fmt: skip
    return rows


def _step(model: LanguageModel, optimizer: Any, params: PyTree, state: Any, tokens: Any) -> Any:
    """Makes one step on a batch."""

    def loss(params: PyTree) -> Any:
        found = model.apply({"params": params}, tokens[:, :-1], method="features")
        features, table = cast(tuple[Array, Array], found)
        weights = jnp.full(tokens[:, 1:].shape, 1.0 / tokens[:, 1:].size)
        return linear_cross_entropy(features, table, tokens[:, 1:], weights).total

    value, gradients = jax.value_and_grad(loss)(params)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state, value


def decoding(batch: int, repeats: int) -> list[dict[str, Any]]:
    """Times generation with a cache, and one call of the whole model for the last token of it."""
    rows = []
    for name, build in BUILD.items():
        model = build(Sizes(VOCABULARY, WIDTH, HEADS, LENGTH))
        prompt = jax.random.randint(jax.random.key(2), (1, LENGTH // 2), 0, VOCABULARY)
        variables = jax.jit(model.init)(jax.random.key(0), prompt)
        long = jnp.tile(prompt, (1, 2))
        count = LENGTH // 2
        cached = Compiled(
            lambda v, p, m=model, n=count: generate(m, v, p, n, temperature=0.0), variables, prompt
        )

        def last(variables, tokens, model=model):
            logits = cast(Array, model.apply(variables, tokens))
            return logits[:, -1].argmax(-1)

        whole = Compiled(last, variables, long)
        with_cache, without = measure_in_turn([cached, whole], repeats)
        per_token = with_cache.wall_ms / count
        rows.append(
            {
                "case": "decoding",
                "model": name,
                "dtype": "float32",
                "wall_ms": per_token,
                "tokens_per_s": 1e3 / per_token,
                "reference_wall_ms": without.wall_ms,
                "ratio": without.wall_ms / per_token,
            }
        )
    del batch
    return rows


def beside_peer(row: dict[str, Any], python: str, batch: int, repeats: int) -> dict[str, Any]:
    """Adds to a row what the same step takes in torch, by another interpreter."""
    command = [python, str(PEER), row["model"], str(batch), str(LENGTH), row["dtype"], str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return {**row, "peer": f"failed: {reason}"}
    peer = json.loads(done.stdout)
    return {
        **row,
        "peer": f"torch {peer['torch']}",
        "peer_cpu_ms": peer["cpu_ms"],
        "peer_wall_ms": peer["wall_ms"],
        "cpu_ratio": peer["cpu_ms"] / row["cpu_ms"],
        "wall_ratio": peer["wall_ms"] / row["wall_ms"],
    }


def _pair(case: str, dtype: Any, compiled: list[Compiled], repeats: int) -> list[dict[str, Any]]:
    """Measures a function and its reference in turn; 'error' is the largest difference."""
    mine, reference = measure_in_turn(compiled, repeats)
    ours, theirs = (jax.tree.leaves(c.result()) for c in compiled)
    errors = [
        np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).max()
        / max(np.abs(np.asarray(b, np.float32)).max(), 1e-30)
        for a, b in zip(ours, theirs, strict=True)
    ]
    return [
        {
            "case": case,
            "model": "",
            "dtype": jnp.dtype(dtype).name,
            "cpu_ms": mine.cpu_ms,
            "wall_ms": mine.wall_ms,
            "temporary_mb": mine.temporary_mb,
            "reference_cpu_ms": reference.cpu_ms,
            "reference_temporary_mb": reference.temporary_mb,
            "ratio": reference.cpu_ms / mine.cpu_ms,
            "error": float(max(errors)),
        }
    ]


CASES: dict[str, Callable[[int, int], list[dict[str, Any]]]] = {
    "projection": projection,
    "gelu": gelu,
    "cross_entropy": cross_entropy,
    "attention": attention,
    "training_step": training_step,
    "decoding": decoding,
}


if __name__ == "__main__":
    sys.exit(main())
