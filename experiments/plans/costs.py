"""Cost model of a training step of the Q/K/A model: operations, bytes, memory.

With B sequences, F frames of each (1 for a still image), N pixels, C channels, P = N / 16 cells of
the map, M frequencies of its half spectrum, T steps, 10 gates, 3 states and W parameters, a step
makes, forward and backward:

    convolutions     2 * 54 C N + 3 * 18 C^2 N / 4       a frame (the images take no gradient)
    gates            3 * 2 * 10 C M                      a step of a sequence
    projections      3 * 4 * 3 C^2 M                     a step of a sequence, and its last state
    transforms       2 * 2.5 P log2 P                    a channel of a frame, and of a sequence
    optimizer        15                                  a parameter, and 32 bytes moved

What is left is elementwise. It grows with the maps of the stem (B F C N) and with the spectra and
states of the scan (B T C M), and so do bytes moved and temporary memory. How often these arrays are
touched is for the compiler to say: the two factors of each figure are the least-squares fit, of
relative error, to what XLA counts on small steps (`counts.json`, made by `python -m
experiments.scaling_plan --count`). The steps that the fit does not see are the check.
"""

import functools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from experiments.plans.workloads import GATES, STATES, Workload

FIGURES = ("operations", "moved", "temporary")
COUNTS = Path(__file__).parent / "counts.json"


class Cost(NamedTuple):
    """Cost of a training step, or of a part of it.

    Attributes:
        matrix: operations in convolutions and matrix products.
        vector: other operations.
        moved: bytes read and written.
        temporary: most bytes held at once beside parameters, optimizer state and examples.
    """

    matrix: float = 0.0
    vector: float = 0.0
    moved: float = 0.0
    temporary: float = 0.0

    @property
    def operations(self) -> float:
        """All operations."""
        return self.matrix + self.vector

    def times(self, factor: float) -> "Cost":
        """Returns the cost of so many of these."""
        return Cost(*(factor * x for x in self))


OPTIMIZER = Cost(0.0, 15.0, 32.0)
"""Of AdamW with clipping, for each parameter."""


def total(costs: Iterable[Cost]) -> Cost:
    """Returns the cost of several parts together."""
    return Cost(*map(sum, zip(*costs, strict=True)))


def entries(work: Workload) -> dict[str, float]:
    """Returns the number of entries of the arrays that costs grow with, by part of the model."""
    return {
        "stem": work.batch * work.frames * work.width * work.pixels,
        "scan": work.batch * work.steps * work.width * work.frequencies,
    }


def matrix_operations(work: Workload) -> dict[str, float]:
    """Returns the operations in convolutions and matrix products, by part."""
    b, c, m = work.batch, work.width, work.frequencies
    stem = 2 * 54 * c * work.pixels + 3 * 18 * c**2 * work.pixels / 4
    return {
        "convolutions": b * work.frames * stem,
        "projections": b * (work.steps + 1) * 3 * 4 * STATES * c**2 * m,
        "gate products": b * work.steps * 3 * 2 * GATES * c * m,
    }


def transform_operations(work: Workload, *, as_xla: bool = False) -> float:
    """Returns the operations of the Fourier transforms: 2.5 P log2 P for a real map of P cells.

    Args:
        work: sizes of the step.
        as_xla: instead XLA's count, 8 floor(log2 h) floor(log2 w) for every cell.
    """
    a_cell = 8 * math.floor(math.log2(work.side)) ** 2 if as_xla else 2.5 * math.log2(work.cells)
    return 2 * work.batch * (work.frames + 1) * work.width * work.cells * a_cell


def costs(work: Workload, *, as_xla: bool = False) -> dict[str, Cost]:
    """Returns the cost of each part of a training step on one device.

    Args:
        work: its sizes.
        as_xla: count the transforms as XLA does.
    """
    touched = factors()
    return known_costs(work, as_xla=as_xla) | {
        part: Cost(0.0, *(touched[figure][part] * size for figure in FIGURES))
        for part, size in entries(work).items()
    }


def known_costs(work: Workload, *, as_xla: bool = False) -> dict[str, Cost]:
    """Returns the costs that follow from the equations alone; arguments as those of `costs`."""
    parts = {part: Cost(matrix) for part, matrix in matrix_operations(work).items()}
    parts["transforms"] = Cost(0.0, transform_operations(work, as_xla=as_xla))
    parts["optimizer"] = OPTIMIZER.times(work.parameters)
    return parts


class Counted(NamedTuple):
    """A step that XLA has counted.

    Attributes:
        work: its sizes.
        fitted: whether the factors were fitted to it.
        operations: XLA's count of floating-point operations.
        moved: of bytes read and written.
        temporary: of the most bytes held at once.
    """

    work: Workload
    fitted: bool
    operations: float
    moved: float
    temporary: float

    def ratios(self) -> dict[str, float]:
        """Returns the model's figures over XLA's."""
        mine = total(costs(self.work, as_xla=True).values())
        return {
            "operations": mine.operations / self.operations,
            "moved": mine.moved / self.moved,
            "temporary": mine.temporary / self.temporary,
        }


def counted_steps() -> list[Counted]:
    """Returns the steps of `counts.json`."""
    rows: list[dict[str, Any]] = json.loads(COUNTS.read_text())["steps"]
    return [Counted(Workload(**row.pop("work")), **row) for row in rows]


@functools.cache
def factors() -> dict[str, dict[str, float]]:
    """Returns how often the arrays are touched: operations or bytes per entry, by figure."""
    steps = [step for step in counted_steps() if step.fitted]
    columns = np.array([list(entries(step.work).values()) for step in steps])
    known = [total(known_costs(step.work, as_xla=True).values()) for step in steps]
    found = {}
    for figure in FIGURES:
        counted = np.array([getattr(step, figure) for step in steps])
        rest = counted - [getattr(cost, figure) for cost in known]
        solution = nnls(columns / counted[:, None], rest / counted)[0]
        found[figure] = dict(zip(entries(steps[0].work), map(float, solution), strict=True))
    return found
