"""Definitions in NumPy float64 that the kernels must match; loops, no FFT, no JAX.

For tests, benchmarks and notebooks alone.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Gates = Sequence[Sequence[Any]]


def widen(x: Any) -> np.ndarray:
    """Returns x as float64, or as complex128 where it is complex."""
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def linear_recurrence(
    transition: ArrayLike,
    inputs: ArrayLike,
    initial: ArrayLike | None = None,
    *,
    reverse: bool = False,
) -> np.ndarray:
    """Iterates s_t = M_t s_{t-1} + b_t one step after the other.

    Args:
        transition: M_t, (*b, t, n, n).
        inputs: b_t, (*b, t, n).
        initial: state before the first step, (*b, n); zero where None.
        reverse: run from the last time to the first.

    Returns:
        The states (*b, t, n), each at the time of its step.
    """
    matrices, offsets = widen(transition), widen(inputs)
    state = np.zeros_like(offsets[..., 0, :]) if initial is None else widen(initial)
    states = np.zeros(offsets.shape, np.result_type(matrices, offsets, state))
    steps = range(offsets.shape[-2])
    for t in reversed(steps) if reverse else steps:
        state = (matrices[..., t, :, :] @ state[..., None])[..., 0] + offsets[..., t, :]
        states[..., t, :] = state
    return states


def coupled_matrices(local: Gates, coupled: Gates, spectrum: Any) -> np.ndarray:
    """Builds M_t = local_t + spectrum * coupled_t entry by entry.

    Args:
        local: n x n entries, each (t, *lanes) or None for zero.
        coupled: n x n entries that the spectrum multiplies, likewise.
        spectrum: array that broadcasts against the lanes; or a tuple, one for each row or None.

    Returns:
        The matrices (t, *lanes, n, n).
    """
    entries = [e for row in (*local, *coupled) for e in row if e is not None]
    n, steps = len(local), len(entries[0])
    spectra = spectrum if isinstance(spectrum, tuple) else (spectrum,) * n
    shapes = [np.shape(x) for x in spectra if x is not None]
    lanes = np.broadcast_shapes(*shapes, *(np.shape(e)[1:] for e in entries))
    matrices = np.zeros((steps, *lanes, n, n), np.complex128)
    for t in range(steps):
        for i in range(n):
            for j in range(n):
                if (gate := local[i][j]) is not None:
                    matrices[t, ..., i, j] += widen(gate)[t]
                if (gate := coupled[i][j]) is not None:
                    matrices[t, ..., i, j] += widen(spectra[i]) * widen(gate)[t]
    return matrices


def coupled_recurrence(
    local: Gates,
    coupled: Gates,
    spectrum: Any,
    inputs: Sequence[tuple[ArrayLike | None, ArrayLike]],
    initial: Sequence[ArrayLike] | None = None,
    *,
    reverse: bool = False,
) -> np.ndarray:
    """Iterates the coupled recurrence through its dense matrices.

    Args:
        local: entries of the transition, see `coupled_matrices`.
        coupled: entries of the transition that the spectrum multiplies.
        spectrum: array that broadcasts against the lanes; or a tuple, one for each row or None.
        inputs: for every state its (gate or None, drive), b_t = gate_t * drive_t; a drive of one
            step enters at every step.
        initial: state before the first step, n arrays of the lanes; zero where None.
        reverse: run from the last time to the first.

    Returns:
        The states (n, t, *lanes).
    """
    matrices = coupled_matrices(local, coupled, spectrum)
    drives = [
        widen(drive) if gate is None else widen(gate) * widen(drive) for gate, drive in inputs
    ]
    shape = np.broadcast_shapes(matrices.shape[:-2], *(drive.shape for drive in drives))
    offsets = np.stack([np.broadcast_to(drive, shape) for drive in drives], -1)
    states = linear_recurrence(
        np.moveaxis(matrices, 0, -3),
        np.moveaxis(offsets, 0, -2),
        None if initial is None else np.stack([widen(s) for s in initial], -1),
        reverse=reverse,
    )
    return np.moveaxis(np.moveaxis(states, -2, 0), -1, 0)


def lay_out_in_middle(kernel: np.ndarray, height: int, width: int) -> np.ndarray:
    """Lays kernels (c, k, l) out on (c, height, width) as the public code does.

    The kernel stands in the middle of the map, rounded up and to the left. Where it is larger than
    the map, its own middle is taken. Its centre is not brought to the map's origin. Where it is
    larger on one side and shorter by one or two on the other, of the latter its last line alone is
    taken, and lies at the map's first.
    """
    channels, rows, columns = kernel.shape
    laid_out = np.zeros((channels, height, width))
    top = (height - rows) // 2 if rows <= height else -((rows - height) // 2)
    left = (width - columns) // 2 if columns <= width else -((columns - width) // 2)
    if rows > height and 0 < width - columns <= 2:
        kernel, columns, left = kernel[:, :, -1:], 1, 0
    if columns > width and 0 < height - rows <= 2:
        kernel, rows, top = kernel[:, -1:], 1, 0
    for p in range(rows):
        for q in range(columns):
            if 0 <= top + p < height and 0 <= left + q < width:
                laid_out[:, top + p, left + q] = widen(kernel[:, p, q])
    return laid_out


def circular_convolution(x: np.ndarray, kernel: np.ndarray, origin: str = "centre") -> np.ndarray:
    """Convolves every channel with its kernel by the sum over taps, circularly.

    'centre': y[i, j] = sum_pq kernel[p, q] x[i - p + k // 2, j - q + l // 2], indices modulo the
    map. 'upstream': the same sum without k // 2 and l // 2 over the kernel in the map's middle.

    Args:
        x: maps (*b, c, h, w).
        kernel: kernels (c, k, l).
        origin: 'centre' or 'upstream'.
    """
    x, kernel = widen(x), widen(kernel)
    if origin == "upstream":
        kernel = lay_out_in_middle(kernel, *x.shape[-2:])
        centre = (0, 0)
    else:
        centre = (kernel.shape[1] // 2, kernel.shape[2] // 2)
    y = np.zeros_like(x)
    for p in range(kernel.shape[1]):
        for q in range(kernel.shape[2]):
            shifted = np.roll(x, (p - centre[0], q - centre[1]), (-2, -1))
            y += kernel[:, p, q, None, None] * shifted
    return y


def bound_magnitude(spectrum: np.ndarray, rho: float = 0.999) -> np.ndarray:
    """Returns rho K / (1 + |K|), in polar form: the phase stays, the magnitude is bounded."""
    magnitude, phase = np.abs(widen(spectrum)), np.angle(widen(spectrum))
    return rho * magnitude / (1.0 + magnitude) * np.exp(1j * phase)


def film(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Returns gamma * x + beta, sample by sample; gamma and beta hold the leading axes of x."""
    x, gamma, beta = widen(x), widen(gamma), widen(beta)
    y = np.zeros_like(x)
    for index in np.ndindex(x.shape[:-1]):
        scale, shift = (
            p[tuple(i % size for i, size in zip(index, p.shape[:-1], strict=False))]
            for p in (gamma, beta)
        )
        y[index] = scale * x[index] + shift
    return y


def causal_convolution(
    x: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray | None = None,
    state: np.ndarray | None = None,
) -> np.ndarray:
    """Returns y_t = bias + sum_j kernel[j] x_{t - (k - 1) + j}, the last tap on the current input.

    Args:
        x: inputs (*b, t, c).
        kernel: taps (k, c).
        bias: (c,), or None.
        state: the k - 1 inputs before the first, (*b, k - 1, c); zero where None.
    """
    x, kernel, taps = widen(x), widen(kernel), len(kernel)
    y = np.zeros_like(x) if bias is None else np.zeros_like(x) + widen(bias)
    for t in range(x.shape[-2]):
        for j in range(taps):
            source = t - (taps - 1) + j
            if source >= 0:
                y[..., t, :] += kernel[j] * x[..., source, :]
            elif state is not None:
                y[..., t, :] += kernel[j] * widen(state)[..., source + taps - 1, :]
    return y


def convolution_2d(
    x: np.ndarray, kernel: np.ndarray, origin: str = "centre", boundary: str = "circular"
) -> np.ndarray:
    """Convolves maps (*b, h, w, c) with kernels (c, k, l), see `circular_convolution`.

    With zeros beyond the map it is the circular convolution of the map in a wide frame of zeros.
    """
    maps = np.moveaxis(widen(x), -1, -3)
    frame = [(k, k) if boundary == "zero" else (0, 0) for k in kernel.shape[1:]]
    framed = np.pad(maps, [(0, 0)] * (maps.ndim - 2) + frame)
    y = circular_convolution(framed, kernel, origin)
    inner = y[..., frame[0][0] : y.shape[-2] - frame[0][1], frame[1][0] : y.shape[-1] - frame[1][1]]
    return np.moveaxis(inner, -3, -1)


def bounded_convolution(
    x: np.ndarray, kernel: np.ndarray, rho: float, origin: str = "centre"
) -> np.ndarray:
    """Convolves maps (*b, h, w, c) circularly with kernels whose whole spectrum is bounded."""
    maps = np.moveaxis(widen(x), -1, -3)
    impulse = np.zeros((kernel.shape[0], *maps.shape[-2:]))
    impulse[:, 0, 0] = 1.0
    spectrum = bound_magnitude(dft_2d(circular_convolution(impulse, kernel, origin)), rho)
    return np.moveaxis(np.real(dft_2d(dft_2d(maps) * spectrum, inverse=True)), -3, -1)


def dft_2d(x: np.ndarray, inverse: bool = False) -> np.ndarray:
    """Transforms the last two axes by the sums that define the discrete Fourier transform."""
    for axis in (-2, -1):
        size = x.shape[axis]
        angle = 2 * np.pi * np.outer(np.arange(size), np.arange(size)) / size
        matrix = np.exp(1j * angle) / size if inverse else np.exp(-1j * angle)
        x = np.moveaxis(np.moveaxis(x, axis, -1) @ matrix, -1, axis)
    return x


def real_inverse(spectrum: np.ndarray, width: int) -> np.ndarray:
    """Returns the real part of the inverse transform of a half spectrum (*b, h, w // 2 + 1).

    Columns w // 2 < j < w are the mirrored conjugates of columns w - j; the columns 0 and w / 2 are
    taken as they come.
    """
    spectrum, height = widen(spectrum), spectrum.shape[-2]
    full = np.zeros((*spectrum.shape[:-1], width), np.complex128)
    for i in range(height):
        for j in range(width):
            own = j < spectrum.shape[-1]
            full[..., i, j] = spectrum[..., i, j] if own else spectrum[..., -i, width - j].conj()
    return np.real(dft_2d(full, inverse=True))
