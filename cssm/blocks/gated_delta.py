"""The matrix delta rule, one associative memory per head and frequency."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Complex, Float, PyTree, Time
from common.kernels import causal_conv, causal_conv_state
from common.kernels.scan_spread import spread_linear_scan
from common.kernels.spread import spread
from common.nn import time_code
from cssm.blocks.base import StateSpaceBlock
from cssm.gates import decay
from cssm.spectra import Grid, grid_of

TAPS = 4
EPSILON = 1e-6


class GatedDeltaBlock(StateSpaceBlock):
    """A memory S of d x d numbers per head and frequency that is corrected, not only added to.

    With kappa the bounded spectrum of one kernel per head, alpha in (0.1, 0.99) and beta in (0, 1)
    numbers per time and head, and spectra q, k, v of d components each, |k| = 1:

        S_t = alpha kappa (S - beta S k k^H) + beta v k^H
        o_t = S_t q_t

    Queries, keys and values are a projection of the input, convolved over the last four frames,
    through a SiLU; keys and queries are normalised over all frequencies, then keys over their
    components. Row i of S obeys s_t = M_t s_{t-1} + b_t with M_t = alpha kappa (I - beta k' k'^H),
    b_t = beta v_i k' and k' = conj(k): no eigenvalue of M_t exceeds 0.99. The output goes back to
    space, through an RMS norm, a SiLU gate and a projection.

    Source: GatedDeltaNet of drewlinsley/CSSM, May 2026, after Yang, Kautz and Hatamizadeh 2024,
    "Gated Delta Networks". There the erased direction is the conjugate of the written one, so that
    complex keys do not erase what they wrote; here they do.

    The channels are a multiple of the key size.

    Attributes:
        key_size: d; there are c / d heads. The scan's matrices are d times as many as the states.
    """

    key_size: int = 2

    @nn.compact
    def advance(
        self,
        x: Float[Array, "b t h w c"],
        steps: int,
        state: PyTree = None,
        start: Time = 0,
        last_only: bool = False,
    ) -> tuple[Float[Array, "b T h w c"], PyTree]:
        """Returns the output, and a state of two parts.

        They are the last three projected frames (b, h, w, 3, 3 c) and the memories
        (b, h, f, n, d, d).

        Raises:
            ValueError: the channels do not make up whole heads.
        """
        if self.channels % self.key_size:
            raise ValueError(f"{self.channels} channels do not split into heads of {self.key_size}")
        recent, memory = (None, None) if state is None else state
        grid = grid_of(x, self.kernel_size, self.origin, self.boundary)
        x = self.rotary(x, steps, start)
        x = jnp.broadcast_to(x, (x.shape[0], steps, *x.shape[2:]))
        mixed = jnp.moveaxis(self.dense(3 * self.channels, "input_proj")(x), 1, -2)
        mixed = mixed.astype(jnp.float32)
        query, key, value = self._queries_keys_values(mixed, recent, grid)
        alpha, beta = self._gates(x, start)
        last_only = last_only and not self.is_mutable_collection("intermediates")
        states: Any = spread_linear_scan(
            memory_transition(alpha, beta, self._spectrum(grid), key),
            memory_writes(beta, value, key),
            memory,
            lanes="b h f n d",
            output="last" if last_only else "all",
        )
        if last_only:
            states, query, x = states[..., None, :], query[..., -1:, :], x[:, -1:]
        retrieved = (states * query[..., None, :, :]).sum(-1)
        out = self._read_out(jnp.swapaxes(retrieved, -1, -2), x, grid)
        return out, (causal_conv_state(mixed, TAPS, recent), states[..., -1, :])

    def _queries_keys_values(
        self, x: Float[Array, "b h w t 3c"], recent: Array | None, grid: Grid
    ) -> list[Complex[Array, "b h f n t d"]]:
        """Returns the spectra of queries, keys (both normalised) and values."""
        shape = (TAPS, x.shape[-1])
        initial = nn.initializers.lecun_normal()
        taps = self.param("temporal_kernel", initial, shape, self.param_dtype)
        convolved = causal_conv(x, taps.astype(jnp.float32), state=recent)
        spectra = grid.spectra(jax.nn.silu(convolved), "b h w t c")  # b h f t c
        spectra = spread(spectra, "b h f t c")
        spectra = spectra.reshape(*spectra.shape[:-1], 3, -1, self.key_size)
        query, key, value = jnp.moveaxis(spectra, (-3, -4), (0, -2))
        query, key = (_normalised(s, (1, 2)) for s in (query, key))
        return [query, _normalised(key, (-1,)), value]

    def _gates(self, x: Array, start: Time) -> tuple[Array, Array]:
        """Returns alpha and beta, (b, 1, 1, n, t, 1)."""
        context = x.astype(jnp.float32).mean((-3, -2))
        context = context + time_code(x.shape[1], x.shape[-1], start)[None]
        gates = {}
        for name, bound in (("alpha", decay), ("beta", jax.nn.sigmoid)):
            raw = self.dense(self.channels // self.key_size, name)(context)
            gates[name] = bound(raw.astype(jnp.float32))
        by_time = {name: gate.swapaxes(0, 1)[:, :, None, None] for name, gate in gates.items()}
        self.sow("intermediates", "gates", by_time)
        alpha, beta = (gate.swapaxes(-1, -2)[:, None, None, :, :, None] for gate in gates.values())
        return alpha, beta

    def _spectrum(self, grid: Grid) -> Complex[Array, "1 h f n 1 1"]:
        shape = (self.channels // self.key_size, self.kernel_size, self.kernel_size)
        kernel = self.param("kernel", nn.initializers.xavier_normal(), shape, self.param_dtype)
        return grid.kernel_spectrum(kernel, self.origin)[None, ..., None, None]

    def _read_out(self, spectra: Complex[Array, "b h f n t d"], x: Array, grid: Grid) -> Array:
        """Returns norm, gate and projection of what was retrieved, (b, t, h, w, c)."""
        spectra = jnp.moveaxis(spectra, -2, 1)
        spectra = spectra.reshape(*spectra.shape[:-2], self.channels)
        out = grid.maps(spectra, "b t h f c")
        self.sow("intermediates", "states", jnp.swapaxes(out, 0, 1)[..., None])
        norm = nn.RMSNorm(
            epsilon=EPSILON, dtype=self.dtype, param_dtype=self.param_dtype, name="norm"
        )
        gate = self.dense(self.channels, "gate_proj")(x)
        return self.dense(self.channels, "output_proj")(norm(out) * jax.nn.silu(gate))


def _normalised(spectra: Array, axes: tuple[int, ...]) -> Array:
    power = (spectra.real**2 + spectra.imag**2).sum(axes, keepdims=True)
    return spectra * jax.lax.rsqrt(power + EPSILON**2)


def memory_transition(
    alpha: Array, beta: Array, kappa: Array, key: Complex[Array, "b h f n t d"]
) -> Complex[Array, "b h f n d t d d"]:
    """Returns alpha kappa (I - beta k' k'^H), once for every row of the memory."""
    size = key.shape[-1]
    projector = key.conj()[..., :, None] * key[..., None, :]
    eye = jnp.eye(size).reshape((1,) * (key.ndim - 1) + (size, size))
    matrices = (alpha * kappa)[..., None] * (eye - beta[..., None] * projector)
    rows = matrices[..., None, :, :, :]
    return jnp.broadcast_to(rows, (*key.shape[:4], size, *rows.shape[-3:]))


def memory_writes(
    beta: Array, value: Array, key: Complex[Array, "b h f n t d"]
) -> Complex[Array, "b h f n d t d"]:
    """Returns beta v_i k' for every row i."""
    return jnp.swapaxes(beta * value, -1, -2)[..., None] * key.conj()[..., None, :, :]
