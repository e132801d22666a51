"""What the passes over a coupled recurrence share: its arrays, loops, and one step in a row."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from llvmlite import ir

from common.kernels.native.plan import Plan
from common.kernels.native.vectors import Arithmetic, Value, counted_loop, index


class Operands(NamedTuple):
    """Pointers to the arrays of a recurrence, or to their cotangents."""

    gates: list[Value]
    spectra: list[Value]
    drives: list[Value]
    initial: list[Value]

    @classmethod
    def first_of(cls, plan: Plan, pointers: list[Value]) -> tuple["Operands", list[Value]]:
        """Splits a list of pointers; returns the operands and the rest."""
        parts = []
        for count in (len(plan.gate_rows), len(plan.spectrum_rows), plan.states, plan.states):
            part, pointers = pointers[:count], pointers[count:]
            parts.append(part)
        return cls(*parts), pointers


class Row(NamedTuple):
    """One row at one time.

    Attributes:
        time: the time.
        number: of the row.
        gates: the values of all gates.
        start: place of the row's first number in arrays without time.
        start_in_time: and in those with time.
    """

    time: Value
    number: Value
    gates: list[Value]
    start: Value
    start_in_time: Value


class Loops:
    """Emits loops over tiles, rows and channels, and one step in a row.

    Args:
        builder: where the code goes.
        plan: structure and sizes.
        operands: pointers.
    """

    def __init__(self, builder: ir.IRBuilder, plan: Plan, operands: Operands):
        self.builder, self.plan, self.operands = builder, plan, operands
        self.math = Arithmetic(builder, plan.double, plan.is_complex)

    def over_tiles(self, body: Callable[[Value, Value], None]) -> None:
        """Emits body(first row, row after the last) for every tile."""
        rows, tile = index(self.plan.rows), index(self.plan.tile)
        with counted_loop(self.builder, index(0), rows, self.plan.tile) as first:
            end = self.builder.add(first, tile)
            whole = self.builder.icmp_signed("<", end, rows)
            body(first, self.builder.select(whole, end, rows))

    def over_rows(self, first: Value, end: Value, step: Value, body: Callable[[Row], None]) -> None:
        """Emits body(row) for the rows of a tile at the time of a step."""
        time = self.time(step)
        with counted_loop(self.builder, first, end) as number:
            body(self._row(time, number))

    def over_channels(self, body: Callable[[Value, int], None]) -> None:
        """Emits body(first channel, width) in the widest vectors and ever shorter ones."""
        start, width = 0, self.math.widest
        while start < self.plan.channels:
            count = (self.plan.channels - start) // width
            if count:
                stop = start + count * width
                with counted_loop(self.builder, index(start), index(stop), width) as channel:
                    body(channel, width)
                start = stop
            width //= 2

    def time(self, step: Value) -> Value:
        """Returns the time of a step."""
        last = index(self.plan.steps - 1)
        return self.builder.sub(last, step) if self.plan.reverse else step

    def at(self, start: Value, channel: Value) -> Value:
        """Returns the place of a channel in a row."""
        return self.builder.add(start, channel)

    def in_cycle(self, number: Value, rows: int) -> Value:
        """Returns the row of an array of fewer rows, which repeat."""
        return number if rows == self.plan.rows else self.builder.urem(number, index(rows))

    def gate_place(self, gate: int, time: Value, number: Value) -> Value:
        """Returns the place of a gate's value."""
        rows = self.plan.gate_rows[gate]
        start = self.builder.mul(time, index(rows))
        return self.builder.add(start, self.in_cycle(number, rows))

    def spectrum_start(self, spectrum: int, number: Value) -> Value:
        """Returns the place of a row in a spectrum."""
        row = self.in_cycle(number, self.plan.spectrum_rows[spectrum])
        return self.builder.mul(row, index(self.plan.channels))

    def drive_start(self, state: int, row: Row) -> Value:
        """Returns the place of a row in a drive."""
        return row.start if self.plan.constant[state] else row.start_in_time

    def _row(self, time: Value, number: Value) -> Row:
        channels = index(self.plan.channels)
        before = self.builder.mul(time, index(self.plan.rows))
        gates = [
            self.math.load_real(array, self.gate_place(i, time, number))
            for i, array in enumerate(self.operands.gates)
        ]
        start = self.builder.mul(number, channels)
        in_time = self.builder.mul(self.builder.add(before, number), channels)
        return Row(time, number, gates, start, in_time)

    def spectra(self, row: Row, channel: Value, width: int) -> list[Value]:
        """Loads the spectra."""
        return [
            self.math.load(array, self.at(self.spectrum_start(i, row.number), channel), width)
            for i, array in enumerate(self.operands.spectra)
        ]

    def drives(self, row: Row, channel: Value, width: int) -> list[Value]:
        """Loads the drives."""
        return [
            self.math.load(array, self.at(self.drive_start(i, row), channel), width)
            for i, array in enumerate(self.operands.drives)
        ]

    def gated(self, gate: int, row: Row, vector: Value, width: int) -> Value:
        """Returns a gate times a vector."""
        return self.math.scale(self.math.spread(row.gates[gate], width), vector)

    def weighted(
        self, entries: Sequence[int | None], row: Row, vectors: Sequence[Value], width: int
    ) -> Value | None:
        """Returns the sum of gates times vectors, or None where there are no gates."""
        total = None
        for gate, vector in zip(entries, vectors, strict=True):
            if gate is not None:
                total = self.math.add(total, self.gated(gate, row, vector, width))
        return total

    def step(self, row: Row, channel: Value, width: int, state: list[Value]) -> list[Value]:
        """Returns (local + spectrum * coupled) state + gates * drives."""
        plan, spectra = self.plan, self.spectra(row, channel, width)
        new = []
        for i, drive in enumerate(self.drives(row, channel, width)):
            gate = plan.input_gates[i]
            total = drive if gate is None else self.gated(gate, row, drive, width)
            if (local := self.weighted(plan.local[i], row, state, width)) is not None:
                total = self.math.add(total, local)
            mixed, spectrum = self.weighted(plan.coupled[i], row, state, width), plan.spectra[i]
            if mixed is not None and spectrum is not None:
                total = self.math.add(total, self.math.product(spectra[spectrum], mixed))
            new.append(total)
        return new

    def load_all(
        self, arrays: Sequence[Value], start: Value, channel: Value, width: int
    ) -> list[Value]:
        """Loads from every array."""
        return [self.math.load(array, self.at(start, channel), width) for array in arrays]

    def store_all(
        self, values: Sequence[Value], arrays: Sequence[Value], start: Value, channel: Value
    ) -> None:
        """Stores into every array."""
        for value, array in zip(values, arrays, strict=True):
            self.math.store(value, array, self.at(start, channel))
