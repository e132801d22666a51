"""Time of a compiled step by component of the model, read from a trace of the profiler.

An operation of a compiled program knows where it was traced: 'jit(step)/jvp(Model)/stem/conv/add'.
What the profiler saw of it goes to the first two modules of that path; Fourier transforms and
linear scans to those of their block; what the optimizer does to 'optimizer'; the rest of the
objective, outside any module, to 'loss'. A fusion counts as its root.
"""

import collections
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

SCOPES = {"scan": "scan", "jit(fft)": "fft"}
"""Parts of a path that stand for themselves in the table, and their names there."""

CONTROL = {"while", "body", "cond", "closed_call", "checkpoint", "remat", "rematted_computation"}
CONTROL |= {"advance"}
"""Parts of a path that name no module, and the method that goes through the whole of one."""

UNNAMED = "unnamed"
"""Operations of the compiler that no line of the program stands for, such as copies."""

_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', re.MULTILINE)


class Component(NamedTuple):
    """A part of a step.

    Attributes:
        name: e.g. 'cssm_0 scan', 'stem conv1', 'optimizer'.
        forward_ms: time in the forward pass, or outside both, milliseconds a step.
        backward_ms: time in the backward pass, likewise.
    """

    name: str
    forward_ms: float
    backward_ms: float

    @property
    def total_ms(self) -> float:
        """Time of both."""
        return self.forward_ms + self.backward_ms


def component_times(trace: Path, program: str, module: str, steps: int) -> list[Component]:
    """Returns the time of each component, the longest first.

    Times of operations that run side by side add up: on several cores the sum can be more than the
    time that a step takes.

    Args:
        trace: folder that the profiler wrote.
        program: text of the compiled program (`compiled.as_text()`).
        module: name of the program in the trace, e.g. 'jit_train_step'.
        steps: number of runs of the program in the trace.
    """
    paths = dict(_INSTRUCTION.findall(program))
    times: dict[tuple[str, bool], float] = collections.defaultdict(float)
    for file in trace.rglob("*.xplane.pb"):
        for operation, duration in _own_times(
            jax.profiler.ProfileData.from_file(str(file)), module
        ):
            times[component_of(paths.get(operation, ""))] += 1e-6 * duration / steps
    names = dict.fromkeys(name for name, _ in times)
    found = [Component(n, times.get((n, False), 0.0), times.get((n, True), 0.0)) for n in names]
    return sorted(found, key=lambda part: -part.total_ms)


def component_of(path: str) -> tuple[str, bool]:
    """Returns the component that an operation's path names, and whether it is of the backward pass.

    Args:
        path: metadata 'op_name' of the operation; empty where it has none.
    """
    segments = path.partition(";")[0].split("/")[:-1]
    backward = any(s.startswith("transpose(") or s == "rematted_computation" for s in segments)
    if not segments:
        return UNNAMED, False
    if "optimizer" in segments:
        return "optimizer", False
    traced = next((s for s in segments if "jvp(" in s), None)
    if traced is None:
        return "step", False
    modules = _modules(segments, root=re.sub(r"[()]|jvp|transpose", "", traced))
    if scope := next((name for part, name in SCOPES.items() if part in segments), None):
        return " ".join([*modules[:1], scope]), backward
    return " ".join(modules[:2]) or "loss", backward


def _modules(segments: Iterable[str], root: str) -> list[str]:
    """Returns the modules of a path from the outside in, and the public methods that they call."""
    modules: list[str] = []
    for segment in segments:
        owner, _, method = segment.partition(".")
        if not owner.isidentifier() or owner in CONTROL or owner == root or segment in SCOPES:
            continue
        if owner not in modules:
            modules.append(owner)
        elif method and not method.startswith("_") and method not in CONTROL:
            modules.append(method)
    return modules


def _own_times(data: Any, module: str) -> Iterator[tuple[str, float]]:
    """Yields operations of a program and the nanoseconds of each without those inside it."""
    for plane in data.planes:
        lines = list(plane.lines)
        if plane.name.startswith("/device:"):  # beside the operations there are sums of them
            lines = [x for x in lines if x.name == "XLA Ops"] or [
                x for x in lines if x.name.startswith("Stream")
            ]
        for line in lines:
            events = [(e.start_ns, e.duration_ns, dict(e.stats)) for e in line.events]
            yield from _nested(
                [
                    (start, duration, str(stats["hlo_op"]))
                    for start, duration, stats in events
                    if "hlo_op" in stats and stats.get("hlo_module", module) == module
                ]
            )


def _nested(events: list[tuple[float, float, str]]) -> Iterator[tuple[str, float]]:
    """Takes from each event of one thread the time of the events that lie in it."""
    open_events: list[list[Any]] = []  # end, name, own time
    for start, duration, name in sorted(events, key=lambda e: (e[0], -e[1])):
        while open_events and open_events[-1][0] <= start:
            _, done, own = open_events.pop()
            yield done, own
        if open_events:
            open_events[-1][2] -= duration
        open_events.append([start + duration, name, duration])
    yield from ((name, own) for _, name, own in open_events)
