"""Profiling of a run's first steps: a trace, a table of time by component, needs of memory."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from common.train.memory import measure_memory
from common.train.state import TrainState
from common.train.step import TrainStep
from common.train.task import Batch
from common.train.trace import Component, component_times
from common.train.workdir import write_json, writing

WARM_UP, TRACED = 3, 5
"""Steps before the trace, and in it."""

LONGEST_TABLE = 40


class ProfiledStep:
    """A training step that looks at itself: the same numbers, and a profile of the first calls.

    The first call tells what the step needs of the memory. After `WARM_UP` calls, `TRACED` ones are
    traced, each waited for. In the folder then lie plugins/profile/ (what XProf and TensorBoard
    open; perfetto_trace.json.gz in it is for ui.perfetto.dev), memory.json and components.json.

    Leave the `with` in any case: it ends a trace that is still going on.

    Args:
        train_step: the jitted step.
        folder: where the profile goes.
        batch_size: number of examples in a step.
        tell: hears the report of memory and the table.
    """

    def __init__(
        self, train_step: TrainStep, folder: Path, batch_size: int, tell: Callable[[str], None]
    ):
        self._train_step, self._folder = train_step, folder
        self._batch_size, self._tell = batch_size, tell
        self._calls = 0
        self._tracing = False
        self._program = ""
        self._seconds: list[float] = []

    def __enter__(self) -> "ProfiledStep":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._tracing:
            jax.profiler.stop_trace()
        if self._calls < WARM_UP + TRACED:
            self._tell(
                f"no profile: it takes {WARM_UP + TRACED} steps, and {self._calls} were made"
            )

    def __call__(self, state: TrainState, batch: Batch) -> TrainState:
        """Makes a step."""
        self._calls += 1
        if self._calls == 1:
            self._look_at_program(state, batch)
        if not WARM_UP < self._calls <= WARM_UP + TRACED:
            return self._train_step(state, batch)
        if not self._tracing:
            jax.block_until_ready(state)
            self._start_trace()
        begin = time.perf_counter()
        with jax.profiler.StepTraceAnnotation("train_step", step_num=self._calls):
            state = jax.block_until_ready(self._train_step(state, batch))
        self._seconds.append(time.perf_counter() - begin)
        if self._calls == WARM_UP + TRACED:
            self._finish_trace()
        return state

    def _look_at_program(self, state: TrainState, batch: Batch) -> None:
        jitted: Any = self._train_step
        self._program = jitted.lower(state, batch).compile().as_text()
        report = measure_memory(self._train_step, state, batch, self._batch_size)
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._folder / "memory.json", dataclasses.asdict(report))
        self._tell(report.describe())

    def _start_trace(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        jax.profiler.start_trace(self._folder, create_perfetto_trace=True, profiler_options=options)
        self._tracing = True

    def _finish_trace(self) -> None:
        jax.profiler.stop_trace()
        self._tracing = False
        name = getattr(self._train_step, "__name__", "train_step")
        parts = component_times(self._folder, self._program, f"jit_{name}", TRACED)
        step_ms = 1e3 * statistics.median(self._seconds)
        write_json(
            self._folder / "components.json",
            {"step_ms": step_ms, "components": [part._asdict() for part in parts]},
        )
        self._tell(describe_components(parts, step_ms))
        self._tell(f"trace of {TRACED} steps: {self._folder}")


def describe_components(parts: Sequence[Component], step_ms: float) -> str:
    """Returns the table of times by component, the longest first."""
    shown = [*parts[:LONGEST_TABLE]]
    if rest := parts[LONGEST_TABLE:]:
        rest_ms = sum(p.forward_ms for p in rest), sum(p.backward_ms for p in rest)
        shown.append(Component(f"{len(rest)} more", *rest_ms))
    total = Component("all", sum(p.forward_ms for p in parts), sum(p.backward_ms for p in parts))
    width = max(len(part.name) for part in [*shown, total])
    lines = [f"{'':{width}}  forward ms  backward ms  share"]
    lines += [
        f"{p.name:{width}}  {p.forward_ms:10.3f}  {p.backward_ms:11.3f}"
        f"  {p.total_ms / (total.total_ms or 1):5.1%}"
        for p in [*shown, total]
    ]
    return "\n".join([*lines, f"a step takes {step_ms:.3g} ms"])
