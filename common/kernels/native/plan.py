"""What the generated code of a coupled recurrence knows of its arrays."""

import dataclasses
import math

TILE_BYTES = 2**12
"""Bytes of one state in the rows that go through time together."""
CHUNK = 64
"""Steps between two states that the backward pass keeps, and between two sums over time."""

Entries = tuple[tuple[int | None, ...], ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Structure and sizes of a coupled recurrence.

    The lanes are rows of channels. A gate has a number for each row, a spectrum for each row and
    channel; where they have fewer rows, these repeat.

    Attributes:
        local: entries, with the number of a gate or None.
        coupled: entries that a spectrum multiplies, likewise.
        input_gates: number of the gate of each state's drive, or None.
        spectra: number of the spectrum of each row of the matrix, or None.
        gate_rows: rows of each gate.
        spectrum_rows: rows of each spectrum.
        constant: of each drive, whether it has one time that enters at every step.
        steps: time steps.
        rows: number of rows.
        channels: numbers in a row.
        double: whether real numbers have 64 bits, or 32.
        is_complex: whether states, drives and spectra are complex.
        reverse: from the last time to the first.
        last_only: of the states the last alone is wanted.
    """

    local: Entries
    coupled: Entries
    input_gates: tuple[int | None, ...]
    spectra: tuple[int | None, ...]
    gate_rows: tuple[int, ...]
    spectrum_rows: tuple[int, ...]
    constant: tuple[bool, ...]
    steps: int
    rows: int
    channels: int
    double: bool
    is_complex: bool
    reverse: bool
    last_only: bool

    @property
    def states(self) -> int:
        """Number of states."""
        return len(self.local)

    @property
    def row_bytes(self) -> int:
        """Bytes of one state in one row."""
        return self.channels * (8 if self.double else 4) * (2 if self.is_complex else 1)

    @property
    def tile(self) -> int:
        """Rows that go through time together: what a step touches of them stays in the L1 cache."""
        return min(self.rows, max(1, TILE_BYTES // self.row_bytes))

    @property
    def chunks(self) -> int:
        """Chunks of time in the backward pass."""
        return math.ceil(self.steps / CHUNK)

    @property
    def scratch(self) -> dict[str, int]:
        """Where the parts of the backward pass's scratch begin, and its 'size', in numbers.

        'adjoint' of the states; 'sums' of the spectra's cotangents over a chunk; and where the
        states are not given, 'marks', the states before each chunk, and 'states' in one.
        """
        tile = self.tile * self.channels
        rebuilt = self.states * tile if self.last_only else 0
        sizes = {
            "adjoint": self.states * tile,
            "sums": len(self.spectrum_rows) * tile,
            "marks": (self.chunks - 1) * rebuilt,
            "states": min(CHUNK, self.steps) * rebuilt,
        }
        starts, total = {}, 0
        for name, size in sizes.items():
            starts[name] = total
            total += size
        return starts | {"size": total}
