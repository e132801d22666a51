"""Generates the loops that take the gradient of a coupled recurrence.

With the adjoint a_t of the state s_t and the transposed matrices M_t,

    a_{t-1} = M_t^T a_t + cotangent_{t-1},

and the cotangent of an entry of M_t is a_t s_{t-1}, of its row and its column. Gates are real and
shared by the channels: theirs is the real part, summed.
"""

from collections.abc import Callable

from llvmlite import ir

from common.kernels.native.loops import Loops, Operands, Row
from common.kernels.native.plan import CHUNK, Plan
from common.kernels.native.vectors import Value, counted_loop, index


def emit_backward(
    builder: ir.IRBuilder, plan: Plan, arguments: list[Value], results: list[Value]
) -> None:
    """Emits the adjoint recurrence.

    Arguments are gates, spectra, drives and initial states, then all states, unless the last alone
    was wanted, and the cotangents of the states. The results are cotangents of gates, spectra,
    drives and initial states, and the scratch.
    """
    operands, rest = Operands.first_of(plan, arguments)
    found, (scratch,) = Operands.first_of(plan, results)
    states, cotangents = rest[: -plan.states], rest[-plan.states :]
    Backward(builder, plan, operands, states, cotangents, found, scratch).emit()


class Backward(Loops):
    """The backward pass.

    Where the states are not given, one forward pass over a tile keeps the states before every
    chunk of time, and each chunk's states are computed again from them before they are needed.

    Args:
        builder: where the code goes.
        plan: structure and sizes.
        operands: pointers to the recurrence's arrays.
        states: to its states; none where they are to be rebuilt.
        cotangents: to the cotangents of all states, or of the last.
        found: to the results.
        scratch: to memory of `plan.scratch` numbers.
    """

    def __init__(
        self,
        builder: ir.IRBuilder,
        plan: Plan,
        operands: Operands,
        states: list[Value],
        cotangents: list[Value],
        found: Operands,
        scratch: Value,
    ):
        super().__init__(builder, plan, operands)
        self.states, self.cotangents, self.found, self.scratch = states, cotangents, found, scratch

    def emit(self) -> None:
        """Emits the whole pass."""
        plan = self.plan
        for gate, rows in enumerate(plan.gate_rows):
            if rows != plan.rows:
                self._clear_reals(self.found.gates[gate], plan.steps * rows)
        for spectrum, rows in enumerate(plan.spectrum_rows):
            self._clear(self.found.spectra[spectrum], rows * plan.channels)
        for drive, constant in enumerate(plan.constant):
            if constant:
                self._clear(self.found.drives[drive], plan.rows * plan.channels)
        self.over_tiles(self._tile)

    def _clear_reals(self, array: Value, size: int) -> None:
        with counted_loop(self.builder, index(0), index(size)) as place:
            self.math.store_real(ir.Constant(self.math.real, 0.0), array, place)

    def _clear(self, array: Value, size: int) -> None:
        with counted_loop(self.builder, index(0), index(size)) as place:
            self.math.store(self.math.zeros(1), array, place)

    def _tile(self, first: Value, end: Value) -> None:
        plan = self.plan
        self._over_numbers(first, end, self._start)
        if plan.last_only and plan.chunks > 1:
            self._mark(first, end)
        with counted_loop(self.builder, index(0), index(plan.chunks)) as back:
            chunk = self.builder.sub(index(plan.chunks - 1), back)
            start = self.builder.mul(chunk, index(CHUNK))
            stop = self._smaller(self.builder.add(start, index(CHUNK)), plan.steps)
            if plan.last_only:
                self._rebuild(first, end, chunk, start, stop)
            with counted_loop(self.builder, start, stop) as forth:
                later = self.builder.sub(self.builder.add(start, stop), index(1))
                step = self.builder.sub(later, forth)
                self.over_rows(first, end, step, lambda row: self._pull(first, start, step, row))
            self._over_numbers(first, end, self._add_sums)
        self._over_numbers(first, end, self._finish)

    def _smaller(self, value: Value, bound: int) -> Value:
        return self.builder.select(
            self.builder.icmp_signed("<", value, index(bound)), value, index(bound)
        )

    def _over_numbers(
        self, first: Value, end: Value, body: Callable[[Value, Value, Value, int], None]
    ) -> None:
        """Emits body(row, row in the tile, channel, width)."""
        with counted_loop(self.builder, first, end) as number:
            inside = self.builder.sub(number, first)
            self.over_channels(lambda channel, width: body(number, inside, channel, width))

    def _in_scratch(self, part: str, slot: Value | int, inside: Value) -> Value:
        """Returns the place of a row in one of the parts, which are made of tiles."""
        slot = index(slot) if isinstance(slot, int) else slot
        tiles = self.builder.mul(slot, index(self.plan.tile))
        row = self.builder.mul(self.builder.add(tiles, inside), index(self.plan.channels))
        return self.builder.add(row, index(self.plan.scratch[part]))

    def _start(self, number: Value, inside: Value, channel: Value, width: int) -> None:
        """Sets the adjoint to the last state's cotangent, and the sums to zero."""
        row = self.builder.mul(number, index(self.plan.channels))
        for i in range(self.plan.states):
            value = self.math.zeros(width)
            if self.plan.last_only:
                value = self.math.load(self.cotangents[i], self.at(row, channel), width)
            place = self.at(self._in_scratch("adjoint", i, inside), channel)
            self.math.store(value, self.scratch, place)
        for i in range(len(self.plan.spectrum_rows)):
            place = self.at(self._in_scratch("sums", i, inside), channel)
            self.math.store(self.math.zeros(width), self.scratch, place)

    def _add_sums(self, number: Value, inside: Value, channel: Value, width: int) -> None:
        """Adds the sums of a chunk to the spectra's cotangents, and sets them to zero."""
        for i, total in enumerate(self.found.spectra):
            place = self.at(self._in_scratch("sums", i, inside), channel)
            more = self.math.load(self.scratch, place, width)
            self.math.store(self.math.zeros(width), self.scratch, place)
            self._add_to(total, self.at(self.spectrum_start(i, number), channel), more, width)

    def _add_to(self, array: Value, place: Value, more: Value, width: int) -> None:
        there = self.math.load(array, place, width)
        self.math.store(self.math.add(there, more), array, place)

    def _finish(self, number: Value, inside: Value, channel: Value, width: int) -> None:
        """Writes the adjoint as the initial states' cotangent."""
        row = self.builder.mul(number, index(self.plan.channels))
        for i, array in enumerate(self.found.initial):
            place = self.at(self._in_scratch("adjoint", i, inside), channel)
            value = self.math.load(self.scratch, place, width)
            self.math.store(value, array, self.at(row, channel))

    def _mark(self, first: Value, end: Value) -> None:
        """Solves the recurrence up to the last chunk, and keeps the states before each."""
        with counted_loop(self.builder, index(0), index(self.plan.chunks - 1)) as chunk:
            start = self.builder.mul(chunk, index(CHUNK))
            self._rebuild(first, end, chunk, start, self.builder.add(start, index(CHUNK)))

            def keep(number: Value, inside: Value, channel: Value, width: int) -> None:
                del number
                for i in range(self.plan.states):
                    kept = self._state_place(index(CHUNK - 1), i, inside)
                    mark = self._mark_place(chunk, i, inside)
                    value = self.math.load(self.scratch, self.at(kept, channel), width)
                    self.math.store(value, self.scratch, self.at(mark, channel))

            self._over_numbers(first, end, keep)

    def _state_place(self, step_in_chunk: Value, state: int, inside: Value) -> Value:
        slot = self.builder.mul(step_in_chunk, index(self.plan.states))
        return self._in_scratch("states", self.builder.add(slot, index(state)), inside)

    def _mark_place(self, chunk_before: Value, state: int, inside: Value) -> Value:
        slot = self.builder.mul(chunk_before, index(self.plan.states))
        return self._in_scratch("marks", self.builder.add(slot, index(state)), inside)

    def _rebuild(self, first: Value, end: Value, chunk: Value, start: Value, stop: Value) -> None:
        """Computes the states of a chunk into the scratch."""
        with counted_loop(self.builder, start, stop) as step:

            def advance(row: Row) -> None:
                inside = self.builder.sub(row.number, first)
                in_chunk = self.builder.sub(step, start)

                def update(channel: Value, width: int) -> None:
                    state = self._state_before(chunk, in_chunk, row, inside, channel, width)
                    new = self.step(row, channel, width, state)
                    for i, value in enumerate(new):
                        place = self.at(self._state_place(in_chunk, i, inside), channel)
                        self.math.store(value, self.scratch, place)

                self.over_channels(update)

            self.over_rows(first, end, step, advance)

    def _state_before(
        self, chunk: Value, in_chunk: Value, row: Row, inside: Value, channel: Value, width: int
    ) -> list[Value]:
        """Loads the rebuilt state before a step: from the chunk, its mark, or the initial ones."""
        opens = self.builder.icmp_signed("==", in_chunk, index(0))
        earliest = self.builder.icmp_signed("==", chunk, index(0))
        at_start = self.builder.and_(opens, earliest)
        earlier, chunk_before = (self.builder.sub(x, index(1)) for x in (in_chunk, chunk))
        values = []
        for i, initial in enumerate(self.operands.initial):
            inner = self._state_place(earlier, i, inside)
            place = self.builder.select(opens, self._mark_place(chunk_before, i, inside), inner)
            place = self.builder.select(at_start, row.start, place)
            array = self.builder.select(at_start, initial, self.scratch)
            values.append(self.math.load(array, self.at(place, channel), width))
        return values

    def _given_state_before(self, step: Value, row: Row, channel: Value, width: int) -> list[Value]:
        """Loads the given state before a step, or the initial one."""
        at_start = self.builder.icmp_signed("==", step, index(0))
        back = index((1 if self.plan.reverse else -1) * self.plan.rows * self.plan.channels)
        earlier = self.builder.add(row.start_in_time, back)
        place = self.at(self.builder.select(at_start, row.start, earlier), channel)
        arrays = (
            self.builder.select(at_start, initial, states)
            for initial, states in zip(self.operands.initial, self.states, strict=True)
        )
        return [self.math.load(array, place, width) for array in arrays]

    def _pull(self, first: Value, start: Value, step: Value, row: Row) -> None:
        """Takes the adjoint of one step in a row."""
        inside = self.builder.sub(row.number, first)
        chunk = self.builder.udiv(start, index(CHUNK))
        in_chunk = self.builder.sub(step, start)
        sums = GateSums(self)

        def pull(channel: Value, width: int) -> None:
            if self.plan.last_only:
                before = self._state_before(chunk, in_chunk, row, inside, channel, width)
            else:
                before = self._given_state_before(step, row, channel, width)
            self._pull_numbers(row, inside, channel, width, before, sums)

        self.over_channels(pull)
        sums.store(row)

    def _pull_numbers(
        self, row: Row, inside: Value, channel: Value, width: int, before: list, sums: "GateSums"
    ) -> None:
        math, plan = self.math, self.plan
        places = [
            self.at(self._in_scratch("adjoint", i, inside), channel) for i in range(plan.states)
        ]
        adjoint = [math.load(self.scratch, place, width) for place in places]
        if not plan.last_only:
            more = self.load_all(self.cotangents, row.start_in_time, channel, width)
            adjoint = [math.add(a, m) for a, m in zip(adjoint, more, strict=True)]
        self._pull_drives(row, channel, width, adjoint, sums)
        loaded = self.spectra(row, channel, width)
        through: list[Value] = [None] * plan.states
        for i, spectrum in enumerate(plan.spectra):
            if any(gate is not None for gate in plan.coupled[i]) and spectrum is not None:
                through[i] = math.product(loaded[spectrum], adjoint[i])
        self._pull_spectra(row, inside, channel, width, adjoint, before)
        for i, j in self._pairs():
            sums.add(plan.local[i][j], adjoint[i], before[j])
            sums.add(plan.coupled[i][j], through[i], before[j])
        for j, place in enumerate(places):
            column = [entries[j] for entries in plan.local]
            total = self.weighted(column, row, adjoint, width)
            column = [entries[j] for entries in plan.coupled]
            coupled = self.weighted(column, row, through, width)
            if coupled is not None:
                total = math.add(total, coupled)
            math.store(math.zeros(width) if total is None else total, self.scratch, place)

    def _pairs(self) -> list[tuple[int, int]]:
        return [(i, j) for i in range(self.plan.states) for j in range(self.plan.states)]

    def _pull_drives(
        self, row: Row, channel: Value, width: int, adjoint: list, sums: "GateSums"
    ) -> None:
        plan = self.plan
        drives = self.drives(row, channel, width)
        for i, gate in enumerate(plan.input_gates):
            value = adjoint[i] if gate is None else self.gated(gate, row, adjoint[i], width)
            place = self.at(self.drive_start(i, row), channel)
            if plan.constant[i]:
                self._add_to(self.found.drives[i], place, value, width)
            else:
                self.math.store(value, self.found.drives[i], place)
            sums.add(gate, adjoint[i], drives[i])

    def _pull_spectra(
        self, row: Row, inside: Value, channel: Value, width: int, adjoint: list, before: list
    ) -> None:
        """Adds to the spectra's sums; rows with the same spectrum go together."""
        for spectrum in range(len(self.plan.spectrum_rows)):
            total = None
            for i, own in enumerate(self.plan.spectra):
                mixed = self.weighted(self.plan.coupled[i], row, before, width)
                if own == spectrum and mixed is not None:
                    total = self.math.add(total, self.math.product(adjoint[i], mixed))
            if total is not None:
                place = self.at(self._in_scratch("sums", spectrum, inside), channel)
                self._add_to(self.scratch, place, total, width)


class GateSums:
    """Sums over the channels for the cotangents of gates, kept in vectors of every width.

    Args:
        loops: the pass that they belong to.
    """

    def __init__(self, loops: Backward):
        self.loops, self.math, self.builder = loops, loops.math, loops.builder
        self._places: dict[tuple[int, int], Value] = {}
        self._clear()

    def _clear(self) -> None:
        width = self.math.widest
        while width:
            if self.loops.plan.channels & width or (
                width == self.math.widest and self.loops.plan.channels >= width
            ):
                for gate in range(len(self.loops.plan.gate_rows)):
                    self._places[gate, width] = self._new_place(width)
            width //= 2

    def _new_place(self, width: int) -> Value:
        zeros = self.math.zeros(width)
        with self.builder.goto_entry_block():
            place = self.builder.alloca(zeros.type)
        self.builder.store(zeros, place)
        return place

    def add(self, gate: int | None, left: Value | None, right: Value) -> None:
        """Adds the products of two vectors' parts to a gate's sum."""
        if gate is None or left is None:
            return
        width = right.type.count // self.math.parts
        place = self._places[gate, width]
        there = self.builder.load(place, typ=right.type)
        self.builder.store(self.math.add(there, self.math.scale(left, right)), place)

    def store(self, row: Row) -> None:
        """Writes the sums of a row, or adds them where rows share the gate."""
        for gate, array in enumerate(self.loops.found.gates):
            total = None
            for (number, width), place in self._places.items():
                if number == gate:
                    kind = self.math.zeros(width).type
                    part = self.math.sum_of_reals(self.builder.load(place, typ=kind))
                    total = self.math.add(total, part)
            place = self.loops.gate_place(gate, row.time, row.number)
            shared = self.loops.plan.gate_rows[gate] != self.loops.plan.rows
            self.math.store_real(total, array, place, add=shared)
