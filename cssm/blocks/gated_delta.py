"""The matrix delta rule, one associative memory per head and frequency."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Complex, Float
from common.kernels import causal_conv, kernel_spectrum, linear_scan, real_inverse_fft2
from common.kernels.spectral import Origin
from common.nn import Rotary, time_code
from cssm.gates import decay
from cssm.spectra import map_size

TAPS = 4
EPSILON = 1e-6


class GatedDeltaBlock(nn.Module):
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

    Attributes:
        channels: width c of the block, a multiple of the key size.
        kernel_size: side of the spatial kernels, in cells of the map.
        rotary: position code applied to the block's input.
        origin: where the kernels' centre lies, see `common.kernels.lay_out_kernel`.
        dtype: compute dtype of the projections; transforms and scan run in float32.
        key_size: d; there are c / d heads. The scan's matrices are d times as many as the states.
    """

    channels: int
    kernel_size: int
    rotary: Rotary
    origin: Origin = "centre"
    dtype: jnp.dtype = jnp.float32
    key_size: int = 2

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], steps: int, last_only: bool = False
    ) -> Float[Array, "b T h w c"]:
        """Returns the block's output without the residual.

        Args:
            x: input frames; t = 1 is a still image that enters at every step.
            steps: number T of time steps.
            last_only: return the last frame alone (T = 1).

        Raises:
            ValueError: the channels do not make up whole heads.
        """
        if self.channels % self.key_size:
            raise ValueError(f"{self.channels} channels do not split into heads of {self.key_size}")
        x = self.rotary(x, steps)
        x = jnp.broadcast_to(x, (x.shape[0], steps, *x.shape[2:]))
        query, key, value = self._queries_keys_values(x)
        alpha, beta = self._gates(x)
        last_only = last_only and not self.is_mutable_collection("intermediates")
        states: Any = linear_scan(
            memory_transition(alpha, beta, self._spectrum(map_size(x)), key),
            memory_writes(beta, value, key),
            output="last" if last_only else "all",
        )
        if last_only:
            states, query, x = states[..., None, :], query[..., -1:, :], x[:, -1:]
        retrieved = (states * query[..., None, :, :]).sum(-1)
        return self._read_out(jnp.swapaxes(retrieved, -1, -2), x)

    def _queries_keys_values(self, x: Array) -> list[Complex[Array, "b h f n t d"]]:
        """Returns the spectra of queries, keys (both normalised) and values."""
        x = nn.Dense(3 * self.channels, dtype=self.dtype, name="input_proj")(x)
        taps = self.param(
            "temporal_kernel", nn.initializers.lecun_normal(), (TAPS, x.shape[-1]), jnp.float32
        )
        x = jax.nn.silu(causal_conv(jnp.moveaxis(x, 1, -2).astype(jnp.float32), taps))
        spectra = jnp.fft.rfft2(x, axes=(-4, -3))  # b h f t c
        spectra = spectra.reshape(*spectra.shape[:-1], 3, -1, self.key_size)
        query, key, value = jnp.moveaxis(spectra, (-3, -4), (0, -2))
        query, key = (_normalised(s, (1, 2)) for s in (query, key))
        return [query, _normalised(key, (-1,)), value]

    def _gates(self, x: Array) -> tuple[Float[Array, "b 1 1 n t 1"], Float[Array, "b 1 1 n t 1"]]:
        context = x.astype(jnp.float32).mean((-3, -2))
        context = context + time_code(x.shape[1], x.shape[-1])[None]
        gates = {}
        for name, bound in (("alpha", decay), ("beta", jax.nn.sigmoid)):
            raw = nn.Dense(self.channels // self.key_size, dtype=self.dtype, name=name)(context)
            gates[name] = bound(raw.astype(jnp.float32))
        by_time = {name: gate.swapaxes(0, 1)[:, :, None, None] for name, gate in gates.items()}
        self.sow("intermediates", "gates", by_time)
        alpha, beta = (gate.swapaxes(-1, -2)[:, None, None, :, :, None] for gate in gates.values())
        return alpha, beta

    def _spectrum(self, size: tuple[int, int]) -> Complex[Array, "1 h f n 1 1"]:
        shape = (self.channels // self.key_size, self.kernel_size, self.kernel_size)
        kernel = self.param("kernel", nn.initializers.xavier_normal(), shape, jnp.float32)
        spectrum = kernel_spectrum(kernel, *size, origin=self.origin)
        return jnp.moveaxis(spectrum, 0, -1)[None, ..., None, None]

    def _read_out(self, spectra: Complex[Array, "b h f n t d"], x: Array) -> Array:
        """Returns norm, gate and projection of what was retrieved, (b, t, h, w, c)."""
        spectra = jnp.moveaxis(spectra, -2, 1)
        spectra = spectra.reshape(*spectra.shape[:-2], self.channels)
        out = real_inverse_fft2(spectra, map_size(x))
        self.sow("intermediates", "states", jnp.swapaxes(out, 0, 1)[..., None])
        out = nn.RMSNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(out)
        gate = nn.Dense(self.channels, dtype=self.dtype, name="gate_proj")(x)
        return nn.Dense(self.channels, dtype=self.dtype, name="output_proj")(
            out * jax.nn.silu(gate)
        )


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
