"""Definitions in loops over NumPy arrays, float64."""

import math

import numpy as np


def statistics(maps, n):
    """The published statistics of maps (layers, heads, s, s) whose first n tokens are real."""
    rows = []
    for layer in maps:
        far, first, entropy, peak, asymmetry = [], [], [], [], []
        for a in layer[:, :n, :n]:
            total = sum(a[i, j] for i in range(n) for j in range(n))
            far.append(sum(a[i, j] for i in range(n) for j in range(n) if abs(i - j) >= 5) / total)
            first.append(sum(a[i, 0] for i in range(n)) / n)
            logs = [-a[i, j] * math.log(a[i, j]) for i in range(n) for j in range(n) if a[i, j] > 0]
            entropy.append(sum(logs) / n)
            peak.append(sum(max(a[i]) for i in range(n)) / n)
            differences = [abs(a[i, j] - a[j, i]) for i in range(n) for j in range(n)]
            asymmetry.append(sum(differences) / n**2)
        means = [sum(x) / len(x) for x in (far, first, entropy)]
        centre = sum(entropy) / len(entropy)
        spread = math.sqrt(sum((e - centre) ** 2 for e in entropy) / len(entropy))
        rows += [*means, spread, sum(peak) / len(peak), sum(asymmetry) / len(asymmetry)]
    diagonal = []
    for a in maps[-1][:, :n, :n]:
        diagonal.append(sum(a[i, i] for i in range(n)) / a.sum())
    share = sum(diagonal) / len(diagonal)
    return np.array([*rows, share, 1 - share, sum(1 - d > 0.6 for d in diagonal) / len(diagonal)])


def region_map(a, n, count):
    """A map (s, s) of n real tokens as one of `count` regions: means of queries, sums of keys."""

    def overlap(region, token):
        low, high = region * n / count, (region + 1) * n / count
        return max(0.0, min(high, token + 1) - max(low, token))

    out = np.zeros((count, count))
    for p in range(count):
        for g in range(count):
            for i in range(n):
                for j in range(n):
                    out[p, g] += overlap(p, i) / (n / count) * a[i, j] * overlap(g, j)
    return out


def correlate(x, kernel):
    """Sum over taps of a map (q, s, c) with zeros beyond it: (q, s, d)."""
    q, s, _ = x.shape
    size = kernel.shape[0]
    out = np.zeros((q, s, kernel.shape[-1]))
    for i in range(q):
        for j in range(s):
            for k in range(size):
                for m in range(size):
                    y, z = i + k - size // 2, j + m - size // 2
                    if 0 <= y < q and 0 <= z < s:
                        out[i, j] += x[y, z] @ kernel[k, m]
    return out


def encode(params, config, ids, types):
    """The last hidden state (s, d) of one text without padding; params as `Encoder` has them."""
    rows = params["embeddings"]
    x = rows["word"][ids] + rows["position"][: len(ids)] + rows["token_type"][types]
    x = normalise(rows["norm"], x)
    size = x.shape[1] // config["num_attention_heads"]
    for number in range(config["num_hidden_layers"]):
        layer = params[f"layers_{number}"]
        q, k, v = (linear(layer["attention"][name], x) for name in ("query", "key", "value"))
        mixed = np.zeros_like(x)
        for start in range(0, x.shape[1], size):
            part = slice(start, start + size)
            weights = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size))
            mixed[:, part] = weights / weights.sum(1, keepdims=True) @ v[:, part]
        x = normalise(layer["attention_norm"], x + linear(layer["attention"]["output"], mixed))
        x = normalise(layer["output_norm"], x + linear(layer["down"], gelu(linear(layer["up"], x))))
    return x


def word_logits(params, x):
    """Scores of all words from states (s, d); params as `WordHead` has them."""
    y = normalise(params["norm"], gelu(linear(params["dense"], x)))
    return y @ params["decoder"].T + params["bias"]


def linear(params, x):
    return x @ params["kernel"] + params["bias"]


def normalise(params, x, epsilon=1e-12):
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return centred / deviation * params["scale"] + params["bias"]


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
