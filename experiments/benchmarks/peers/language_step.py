"""A training step of the same language models in torch; prints JSON. Its own program, no module.

    python experiments/benchmarks/peers/language_step.py MODEL BATCH LENGTH DTYPE REPEATS

Needs torch alone. `experiments.benchmarks.language --peer=PYTHON` runs it with that interpreter.
Two threads; mixed precision by autocast; scaled_dot_product_attention; fused AdamW; clipping.
"""

import json
import resource
import statistics
import sys
import time

import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

VOCABULARY, WIDTH, HEADS, TAPS = 50_257, 512, 8, 5


def rotated(x):
    """Turns channel pairs by their place."""
    frequencies = 10_000.0 ** (-torch.arange(0, x.shape[-1], 2) / x.shape[-1])
    angles = torch.outer(torch.arange(x.shape[-2]).float(), frequencies)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


class Attention(nn.Module):
    """x + W_o attention(norm(x))."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        """Takes (b, t, d)."""
        b, t, d = x.shape
        parts = self.qkv(self.norm(x)).split(d, -1)
        q, k, v = (z.view(b, t, HEADS, d // HEADS).transpose(1, 2) for z in parts)
        y = F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
        return x + self.out(y.transpose(1, 2).reshape(b, t, d))


class Model(nn.Module):
    """Embedding, causal depthwise convolution or none, attention layers, norm, logits."""

    def __init__(self, depth, conv):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.conv = nn.Conv1d(WIDTH, WIDTH, TAPS, groups=WIDTH, padding=TAPS - 1) if conv else None
        self.layers = nn.ModuleList(Attention() for _ in range(depth))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens):
        """Takes (b, t) and gives (b, t, v)."""
        x = self.embedding(tokens)
        if self.conv is not None:
            x = self.conv(x.transpose(1, 2))[..., : tokens.shape[1]].transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def main():
    """Times the steps."""
    name, batch, length, dtype, repeats = sys.argv[1:]
    torch.manual_seed(0)
    torch.set_num_threads(2)
    model = Model(1, True) if name == "conv_attn" else Model(4, False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01, fused=True)
    tokens = torch.randint(0, VOCABULARY, (int(batch), int(length) + 1))
    wall, cpu = [], []
    for _ in range(int(repeats) + 1):
        start, used = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(tokens[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - used)
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "wall_ms": 1e3 * statistics.median(wall[1:]),
                "cpu_ms": 1e3 * statistics.median(cpu[1:]),
                "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
            }
        )
    )


if __name__ == "__main__":
    main()
