"""Every block once more in NumPy float64: one step after the other, written from its equation.

Each takes parameters and frames (b, T, h, w, c) that a position code has turned, and returns the
block's output without the residual.
"""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from common.kernels import reference

Params = dict[str, Any]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def silu(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(x)


def dense(layer: Params, x: np.ndarray) -> np.ndarray:
    return x @ reference.widen(layer["kernel"]) + layer["bias"]


def layer_norm(layer: Params, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-6)
    return centred / deviation * layer["scale"] + layer["bias"]


def rms_norm(layer: Params, x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * layer["scale"]


def time_code(steps: int, channels: int) -> np.ndarray:
    angles = np.arange(steps)[:, None] * 10000.0 ** (-np.arange(0, channels, 2) / channels)
    return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(steps, channels)


def spectrum_of(kernel: np.ndarray, size: tuple[int, int], bounded: bool = True) -> np.ndarray:
    """Spectrum (c, h, f) of kernels whose centre is at the map's origin."""
    impulse = np.zeros((kernel.shape[0], *size))
    impulse[:, 0, 0] = 1.0
    spectrum = np.fft.rfft2(reference.circular_convolution(impulse, kernel))
    return reference.bound_magnitude(spectrum) if bounded else spectrum


def spectra(x: np.ndarray) -> np.ndarray:
    """Spectra (T, b, c, h, f) of frames (b, T, h, w, c)."""
    return np.fft.rfft2(x.transpose(1, 0, 4, 2, 3))


def frames(spectrum: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.fft.irfft2(spectrum, s=size).transpose(1, 0, 3, 4, 2)


def gates_of(params: Params, context: np.ndarray, grid: tuple[int, int]) -> SimpleNamespace:
    """Gates (T, b, 1, h, f) of a context (b, T, c), by name; decays in (0.1, 0.99)."""
    gates = {}
    for name, layer in params.items():
        if isinstance(layer, dict) and name not in ("input_proj", "output_proj", "norm"):
            raw = dense(layer, context).swapaxes(0, 1).reshape(*context.shape[1::-1], 1, *grid)
            gate = softplus(raw) if name == "delta_gate" and "k_exc" not in params else sigmoid(raw)
            gates[name] = 0.1 + 0.89 * gate if name.startswith("decay") else gate
    return SimpleNamespace(**gates)


def projected(
    equation: Callable[..., tuple],
    inputs: tuple[str, ...],
    read: tuple[int, ...] | None = None,
    bounded: bool = True,
    context_of: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Callable[[Params, np.ndarray], np.ndarray]:
    """The loop of a block with projections: `equation` makes the next states of the last ones."""

    def loop(params: Params, x: np.ndarray) -> np.ndarray:
        x = reference.widen(x)
        batch, steps, height, width, channels = x.shape
        context = x.mean((2, 3)) + time_code(steps, channels)
        context = context if context_of is None else context_of(x)
        gates = gates_of(params, context, (height, width // 2 + 1))
        names = ("k_exc", "k_inh") if "k_exc" in params else ("kernel",)
        kappas = [spectrum_of(params[name], (height, width), bounded) for name in names]
        drives = np.split(spectra(dense(params["input_proj"], x)), len(inputs), 2)
        states: Any = (0.0,) * len(inputs)
        out = []
        for t in range(steps):
            now = SimpleNamespace(**{name: gate[t] for name, gate in vars(gates).items()})
            moved = equation(now, *kappas, *states)
            gated = [vars(now)[name] * u[t] for name, u in zip(inputs, drives, strict=True)]
            states = tuple(m + u for m, u in zip(moved, gated, strict=True))
            chosen = [states[i] for i in read or range(len(states))]
            out.append(np.stack([now.C_gate * s for s in chosen]))
        maps = np.fft.irfft2(np.stack(out), s=(height, width))  # T, state, b, c, h, w
        maps = maps.transpose(2, 0, 4, 5, 3, 1).reshape(batch, steps, height, width, -1)
        return dense(params["output_proj"], maps)

    return loop


def query_key_attention(g, k, Q, K, A):
    return (
        g.decay_Q * Q + g.w_qk * k * K + g.alpha * k * A,
        g.w_qk * k * Q + g.decay_K * K,
        g.gamma * (Q + K) + g.decay_A * A,
    )


def asymmetric(g, k, Q, K, A):
    return (
        g.decay_Q * Q + g.w_k_to_q * k * K + g.alpha * k * A,
        g.w_q_to_k * k * Q + g.decay_K * K,
        g.gamma * (Q + K) + g.decay_A * A,
    )


def no_feedback(g, k, Q, K, A):
    return (
        g.decay_Q * Q + g.w_qk * k * K,
        g.w_qk * k * Q + g.decay_K * K,
        g.gamma * (Q + K) + g.decay_A * A,
    )


def no_key(g, k, Q, A):
    return g.decay_Q * Q + g.alpha * k * A, g.gamma * Q + g.decay_A * A


def bilinear(g, e, i, X, Y, Z):
    return (
        g.decay_x_gate * X - g.mu_inhib_gate * i * Y - g.alpha_inhib_gate * i * Z,
        g.mu_excit_gate * e * X + g.decay_y_gate * Y + g.alpha_excit_gate * e * Z,
        g.gamma_gate * X + g.delta_gate * Y + g.decay_z_gate * Z,
    )


def contracting(equation: Callable[..., tuple], states: int) -> Callable[..., tuple]:
    """The equation with a matrix read off it, entry by entry, and its rows scaled."""

    def step(g, *kernels_and_states):
        kernels, state = kernels_and_states[:-states], kernels_and_states[-states:]
        magnitudes = [abs(k).max(0, keepdims=True) for k in kernels]
        moved = list(equation(g, *kernels, *state))
        for i in range(states):
            row = [abs(equation(_positive(g), *magnitudes, *unit)[i]) for unit in np.eye(states)]
            own = equation(g, *kernels, *np.eye(states)[i])[i] * state[i]
            room = 0.999 - row[i]
            factor = np.minimum(1.0, room / (sum(row) - row[i]))
            moved[i] = own + factor * (moved[i] - own)
        return tuple(moved)

    return step


def _positive(gates: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(**{name: abs(gate) for name, gate in vars(gates).items()})


def opponent(g, e, i, X, Y):
    return (
        g.decay_x_gate * X - g.mu_gate * i * Y,
        g.gamma_gate * e * X + g.decay_y_gate * Y,
    )


def gated(params: Params, x: np.ndarray) -> np.ndarray:
    x = reference.widen(x)
    *_, height, width, _ = x.shape
    gates = gates_of(params, x.mean((2, 3)), (height, width // 2 + 1))
    kappa, drive = spectrum_of(params["kernel"], (height, width)), spectra(x)
    state, out = 0.0, []
    for t, (delta, b, c) in enumerate(
        zip(gates.delta_gate, gates.B_gate, gates.C_gate, strict=True)
    ):
        state = kappa * np.exp(-delta) * state + (delta + 1e-8) * b * drive[t]
        out.append(c * state)
    return frames(np.stack(out), (height, width))


def standard(params: Params, x: np.ndarray) -> np.ndarray:
    x = reference.widen(x)
    size = x.shape[2:4]
    kappa = spectrum_of(params["kernel"], size)
    state, out = 0.0, []
    for drive in spectra(x):
        state = kappa * state + drive
        out.append(state)
    return frames(np.stack(out), size)


def gated_delta(params: Params, x: np.ndarray) -> np.ndarray:
    """S = alpha kappa (S - beta S k k^H) + beta v k^H, o = S q, with S a matrix at every bin."""
    x = reference.widen(x)
    batch, steps, height, width, channels = x.shape
    context = x.mean((2, 3)) + time_code(steps, channels)
    alpha = 0.1 + 0.89 * sigmoid(dense(params["alpha"], context))
    beta = sigmoid(dense(params["beta"], context))
    heads = alpha.shape[-1]
    mixed = dense(params["input_proj"], x)
    taps = params["temporal_kernel"]
    convolved = np.zeros_like(mixed)
    for t in range(steps):
        for lag in range(min(t + 1, len(taps))):
            convolved[:, t] += taps[-1 - lag] * mixed[:, t - lag]
    parts = np.fft.rfft2(silu(convolved), axes=(2, 3))
    parts = parts.reshape(*parts.shape[:-1], 3, heads, channels // heads)
    q, k, v = np.moveaxis(parts, -3, 0)  # b, t, h, f, head, component
    q, k = (z / np.sqrt(np.sum(np.abs(z) ** 2, (2, 3), keepdims=True)) for z in (q, k))
    k = k / np.linalg.norm(k, axis=-1, keepdims=True)
    kappa = np.moveaxis(spectrum_of(params["kernel"], (height, width)), 0, -1)
    out = np.zeros((batch, steps, height, width // 2 + 1, heads, channels // heads), complex)
    for b, i, j, n in np.ndindex(batch, height, width // 2 + 1, heads):
        memory = np.zeros((channels // heads,) * 2, complex)
        for t in range(steps):
            key, value = k[b, t, i, j, n], v[b, t, i, j, n]
            erased = memory - beta[b, t, n] * np.outer(memory @ key, key.conj())
            memory = alpha[b, t, n] * kappa[i, j, n] * erased
            memory = memory + beta[b, t, n] * np.outer(value, key.conj())
            out[b, t, i, j, n] = memory @ q[b, t, i, j, n]
    out = np.fft.irfft2(out.reshape(*out.shape[:4], -1), s=(height, width), axes=(2, 3))
    out = rms_norm(params["norm"], out) * silu(dense(params["gate_proj"], x))
    return dense(params["output_proj"], out)


def no_fft(params: Params, x: np.ndarray) -> np.ndarray:
    x = reference.widen(x)
    _, steps, height, width, channels = x.shape
    context = x.mean((2, 3)) + time_code(steps, channels)
    delta, b, c = (
        np.moveaxis(g, 2, -1)
        for g in (
            bound(dense(params[name], context).swapaxes(0, 1).reshape(steps, -1, 1, height, width))
            for name, bound in (("delta_gate", softplus), ("B_gate", sigmoid), ("C_gate", sigmoid))
        )
    )
    memory, output = np.split(dense(params["input_proj"], x), 2, -1)
    state, out = 0.0, []
    for t in range(steps):
        decay = sigmoid(params["decay_logit"]) ** delta[t]
        state = decay * state + delta[t] * b[t] * silu(memory[:, t])
        out.append(rms_norm(params["norm"], c[t] * state) * silu(output[:, t]))
    return dense(params["output_proj"], np.stack(out, 1))


def spatial_attention(params: Params, x: np.ndarray) -> np.ndarray:
    x = reference.widen(x) + params["pos_embed"]
    flat = x.reshape(*x.shape[:2], -1, x.shape[-1])
    normed, layers = layer_norm(params["norm1"], flat), params["attention"]
    q, k, v = (
        np.einsum("btsc,cnd->btnsd", normed, layers[name]["kernel"]) + layers[name]["bias"][:, None]
        for name in ("query", "key", "value")
    )
    weights = np.exp(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1]))
    attended = weights / weights.sum(-1, keepdims=True) @ v
    first = np.einsum("btnsd,ndc->btsc", attended, layers["out"]["kernel"]) + layers["out"]["bias"]
    first = first * params["attention_scale"]
    hidden = dense(params["mlp_up"], layer_norm(params["norm2"], flat + first))
    gelu = 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    return (first + dense(params["mlp_down"], gelu) * params["mlp_scale"]).reshape(x.shape)


ATTENTION_INPUTS = ("B_Q", "B_K", "B_A")
LOOPS: dict[str, Callable[[Params, np.ndarray], np.ndarray]] = {
    "transformer": projected(query_key_attention, ATTENTION_INPUTS),
    "hgru_bi": projected(bilinear, ("B_gate", "D_gate", "E_gate")),
    "gated": gated,
    "standard": standard,
    "opponent": projected(opponent, ("B_gate", "D_gate")),
    "gdn": gated_delta,
    "gdn_4": gated_delta,
    "no_fft": no_fft,
    "spatial_attn": spatial_attention,
    "transformer_stable": projected(contracting(query_key_attention, 3), ATTENTION_INPUTS),
    "hgru_bi_stable": projected(contracting(bilinear, 3), ("B_gate", "D_gate", "E_gate")),
    "transformer_asymmetric": projected(asymmetric, ATTENTION_INPUTS),
    "transformer_no_feedback": projected(no_feedback, ATTENTION_INPUTS),
    "transformer_no_key": projected(no_key, ("B_Q", "B_A")),
    "transformer_unbounded": projected(query_key_attention, ATTENTION_INPUTS, bounded=False),
    "transformer_steady_gates": projected(
        query_key_attention, ATTENTION_INPUTS, context_of=lambda x: x.mean((2, 3))
    ),
    "transformer_read_q": projected(query_key_attention, ATTENTION_INPUTS, read=(0,)),
    "transformer_read_ka": projected(query_key_attention, ATTENTION_INPUTS, read=(1, 2)),
}
