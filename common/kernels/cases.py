"""Named shapes of the recurrences, and random arguments for them: for tests and benchmarks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from common.kernels.scan import Output
from common.kernels.transitions import CoupledTransition, GatedInput

STRUCTURES = {
    "gated": ((".",), ("w",)),
    "opponent": (("lg", "gl"), ("ww", ".w")),
    "transformer": (("l..", ".l.", "ggl"), (".ww", "w..", "...")),
    "sparse": (("..g", "...", "..."), ("...", "w.w", "...")),
    "shared": (("l..", ".l.", "GGl"), (".WA", "W..", "...")),
    "bilinear": (("l..", ".l.", "ggl"), (".mm", "m.m", "...")),
    "mutual": (("l.", ".l"), (".m", "m.")),
    "local": (("l",), (".",)),
}
"""Which entries exist in `local` and `coupled`, one string a row; a point is a structural zero.

Places with the same capital have one gate together, others one each.
"""

ROW_SPECTRA = {"bilinear": "ie.", "mutual": "ie", "local": "."}
"""Structures with a spectrum for each row: its name, or a point for none. Others have one."""


@dataclasses.dataclass(frozen=True)
class ScanCase:
    """Shape and options of one linear recurrence.

    Attributes:
        name: what it is there for.
        steps: time steps t.
        batch: leading axes (dense form), or lanes of the states (coupled form).
        states: number n of states.
        dtype: of transition and inputs; the coupled form is complex, its gates real.
        initial: whether a state before the first step is given.
        reverse: whether time runs backwards.
        output: 'all' states or the 'last'.
        constant_drive: coupled form: the drive has one step, the same one enters at every step.
        structure: coupled form: the entries, one of `STRUCTURES`.
        input_gates: coupled form: whether gates multiply the drives of all states but the second.
        gain: factor of the transitions; below 1 long products do not grow.
    """

    name: str
    steps: int
    batch: tuple[int, ...]
    states: int
    dtype: str = "float32"
    initial: bool = False
    reverse: bool = False
    output: Output = "all"
    constant_drive: bool = False
    structure: str = "transformer"
    input_gates: bool = True
    gain: float = 1.0


DENSE_CASES = (
    ScanCase("one_step", 1, (3,), 3, initial=True),
    ScanCase("two_steps_reverse", 2, (3,), 2, initial=True, reverse=True),
    ScanCase("no_batch_complex", 7, (), 3, "complex64", initial=True),
    ScanCase("scalar_state_last", 8, (2, 3), 1, output="last"),
    ScanCase("two_axes_reverse", 7, (2, 3), 3, reverse=True),
    ScanCase("long_complex_reverse_last", 33, (2,), 2, "complex64", True, True, "last"),
    ScanCase("long_double", 33, (2,), 3, "float64", initial=True),
    ScanCase("checkpointed_reverse", 130, (2,), 2, "float64", True, True, gain=0.95),
)

COUPLED_CASES = (
    ScanCase("one_step", 1, (2, 3), 3, "complex64", initial=True),
    ScanCase("no_lanes_reverse", 2, (), 2, "complex64", True, True, structure="opponent"),
    ScanCase("scalar_state", 7, (3,), 1, "complex64", structure="gated"),
    ScanCase("still_image_last", 8, (2, 3, 4), 3, "complex64", output="last", constant_drive=True),
    ScanCase("sparse_reverse", 7, (2, 3), 3, "complex64", reverse=True, structure="sparse"),
    ScanCase("checkpointed_last", 130, (2, 3), 3, "complex64", True, output="last"),
    ScanCase("shared_gates", 8, (2, 3), 3, "complex64", structure="shared"),
    ScanCase("long_double_reverse_last", 33, (2, 3), 3, "complex128", True, True, "last"),
    ScanCase("two_spectra", 7, (2, 3, 4), 3, "complex64", True, structure="bilinear"),
    ScanCase(
        "two_spectra_reverse_last", 8, (2, 3), 2, "complex64", True, True, "last", True, "mutual"
    ),
    ScanCase("real_without_spectrum", 7, (2, 3), 1, structure="local"),
)


def _benchmark_case(name: str, steps: int, *lanes: int, **options: Any) -> ScanCase:
    gain = 1.0 if steps <= 64 else 0.6
    options = {"structure": "shared", "input_gates": False, "gain": gain} | options
    return ScanCase(name, steps, lanes, 3, "complex64", **options)


LENGTHS = (1, 4, 16, 64, 256, 1024, 4096, 16384)
"""Numbers of steps of the benchmark cases L1, L4, ..."""

BENCHMARK_CASES = (
    _benchmark_case("S1", 8, 4, 16, 9, 32),
    _benchmark_case("S1_last", 8, 4, 16, 9, 32, output="last"),
    _benchmark_case("S2", 8, 2, 32, 17, 64),
    _benchmark_case("S2_last", 8, 2, 32, 17, 64, output="last"),
    _benchmark_case("model", 8, 4, 16, 9, 32, input_gates=True),
    _benchmark_case("still", 8, 32, 16, 9, 32, output="last", constant_drive=True),
    *(_benchmark_case(f"L{steps}", steps, 1, 8, 5, 8) for steps in LENGTHS),
    *(_benchmark_case(f"N{steps}", steps, 1, 2, 2, 2) for steps in (256, 4096)),
)
"""Shapes (t; batch, height, frequencies, channels): smaller and larger maps, lengths, few lanes."""

DENSE_BENCHMARK_CASES = (
    ScanCase("D1", 8, (4, 16, 9, 32), 3, "complex64"),
    ScanCase("D512", 512, (8, 5, 8), 3, "complex64", gain=0.6),
)


def random_array(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, scale: float = 1.0
) -> Any:
    """Returns normal numbers of standard deviation `scale`, complex ones where asked for."""
    x = rng.standard_normal(shape)
    if np.issubdtype(dtype, np.complexfloating):
        x = (x + 1j * rng.standard_normal(shape)) / np.sqrt(2.0)
    return np.asarray(scale * x).astype(dtype)


def dense_arguments(case: ScanCase, seed: int = 0) -> tuple[Any, Any, Any]:
    """Returns random (transition, inputs, initial or None) of a case.

    The matrices vary in time and do not commute. Their products neither explode nor vanish fast.
    """
    rng = np.random.default_rng(seed)
    n, dtype = case.states, case.dtype
    scale = 1.2 * case.gain / np.sqrt(n)
    transition = random_array(rng, (*case.batch, case.steps, n, n), dtype, scale)
    inputs = random_array(rng, (*case.batch, case.steps, n), dtype)
    initial = random_array(rng, (*case.batch, n), dtype) if case.initial else None
    return transition, inputs, initial


def _each_once(names: str, make: Callable[[], Any]) -> tuple:
    """Returns something for every letter, the same for the same one, and None for a point."""
    made = {name: make() for name in dict.fromkeys(names) if name != "."}
    return tuple(made.get(name) for name in names)


def coupled_arguments(case: ScanCase, seed: int = 0) -> tuple[CoupledTransition, Any, Any]:
    """Returns random (transition, inputs, initial or None) of a case.

    As in the models, lanes are (batch, ..., channels): with two or more of them the gates are
    shared by the channels and the spectrum by the batch.
    """
    rng = np.random.default_rng(seed)
    gate_dtype = "float64" if case.dtype == "complex128" else "float32"
    gate_lanes, spectrum_lanes = list(case.batch), list(case.batch)
    if len(case.batch) > 1:
        gate_lanes[-1] = spectrum_lanes[0] = 1

    def gate() -> Any:
        uniform = rng.uniform(0.1, 1.5, (case.steps, *gate_lanes))
        return np.asarray(case.gain * uniform / np.sqrt(case.states)).astype(gate_dtype)

    named: dict[str, Any] = {}

    def entry(letter: str) -> Any:
        if letter == ".":
            return None
        return named.setdefault(letter, gate()) if letter.isupper() else gate()

    local, coupled = (
        tuple(tuple(entry(letter) for letter in row) for row in rows)
        for rows in STRUCTURES[case.structure]
    )

    def random_spectrum() -> Any:
        phase = rng.uniform(-np.pi, np.pi, spectrum_lanes)
        polar = rng.uniform(0.7, 1.0, spectrum_lanes) * np.exp(1j * phase)
        return np.asarray(polar).astype(case.dtype)

    names = ROW_SPECTRA.get(case.structure)
    spectrum: Any = random_spectrum() if names is None else _each_once(names, random_spectrum)
    drive_shape = (1 if case.constant_drive else case.steps, *case.batch)
    drives = [random_array(rng, drive_shape, case.dtype) for _ in local]
    gated = [case.input_gates and i != 1 for i in range(case.states)]
    inputs = tuple(GatedInput(gate(), d) if g else d for g, d in zip(gated, drives, strict=True))
    initial = tuple(random_array(rng, case.batch, case.dtype) for _ in local)
    return CoupledTransition(local, coupled, spectrum), inputs, initial if case.initial else None
