"""The random stream of an image: one 64-bit word, advanced by the functions that draw from it.

SplitMix64 (Steele, Lea and Flood 2014). Integer arithmetic alone, so a stream is the same on every
machine. Never change this file without a new GENERATOR_VERSION: Numba's cache of compiled code
does not notice changes of functions that other files call.
"""

import numba
import numpy as np

jit = numba.njit(cache=True, nogil=True)


@jit
def _mix(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@jit
def make_stream(seed, index):
    """Returns the random stream (1,) of number `index` of `seed`."""
    start = _mix(np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1))
    start = _mix(start ^ (np.uint64(index) * np.uint64(0xD1B54A32D192ED03) + np.uint64(1)))
    return np.full(1, start, np.uint64)


@jit
def uniform(stream):
    """Returns the stream's next number in [0, 1), a multiple of 2^-53."""
    stream[0] += np.uint64(0x9E3779B97F4A7C15)
    return (_mix(stream[0]) >> np.uint64(11)) * (1.0 / (1 << 53))


@jit
def below(stream, bound):
    """Returns the stream's next integer in [0, bound), for bounds under 2^31."""
    stream[0] += np.uint64(0x9E3779B97F4A7C15)
    return np.int64(((_mix(stream[0]) >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32))
