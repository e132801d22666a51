"""Generates the loops that solve a coupled recurrence."""

from llvmlite import ir

from common.kernels.native.loops import Loops, Operands, Row
from common.kernels.native.plan import Plan
from common.kernels.native.vectors import Value, counted_loop, index


def emit_forward(
    builder: ir.IRBuilder, plan: Plan, arguments: list[Value], results: list[Value]
) -> None:
    """Emits the recurrence.

    Arguments are gates, spectra, drives and initial states, the results the states: the last ones,
    or all of them.
    """
    operands, _ = Operands.first_of(plan, arguments)
    loops = Loops(builder, plan, operands)

    def advance(step: Value, row: Row) -> None:
        first = builder.icmp_signed("==", step, index(0))
        before = row.start
        if not plan.last_only:
            earlier = index((plan.rows if plan.reverse else -plan.rows) * plan.channels)
            moved = builder.add(row.start_in_time, earlier)
            before = builder.select(first, row.start, moved)
        arrays = [
            builder.select(first, start, result)
            for start, result in zip(operands.initial, results, strict=True)
        ]
        after = row.start if plan.last_only else row.start_in_time

        def update(channel: Value, width: int) -> None:
            state = loops.load_all(arrays, before, channel, width)
            loops.store_all(loops.step(row, channel, width, state), results, after, channel)

        loops.over_channels(update)

    def tile(first: Value, end: Value) -> None:
        with counted_loop(builder, index(0), index(plan.steps)) as step:
            loops.over_rows(first, end, step, lambda row: advance(step, row))

    loops.over_tiles(tile)
