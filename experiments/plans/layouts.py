"""A training step on a mesh of devices: what each does, holds and sends.

The axes are those of `config.mesh`, d x z x q x s devices:

    data d        every device a part of the batch; all parameters
    fsdp z        likewise, parameters and optimizer state in z parts
    frequency q   the rows of spectra, gates and states, the channels in Fourier transforms; the
                  stem is repeated
    time s        the frames of a video, the steps of the scan

Bytes that a device sends in a step, with b = B / (d z) sequences and f = F / s frames on each (1 of
a still image), W parameters of 4 bytes and n = d z q s:

    data, time, frequency   2 (g - 1) / g * 4 W / z            g = n / z: sums of gradients
    fsdp                    3 (z - 1) / z * 4 W                parameters twice, gradients once
    frequency               2 (q - 1) / q * b (f + 1) (8 C M / q + 4 C P)
    time                    (s - 1) * 8 (9 + 2 * 3) b C M / q + 2 * 8 * 3 b C M / q

The third exchanges rows for channels around the transforms and gives every device all channels of
maps; the last are the affine maps (3 x 3 matrices and offsets) of the blocks of time, of which each
device needs all, and the last state (`common.kernels.scan_sharded`). The scan's first pass, which
makes them, walks four vectors instead of one: four more forward scans, each a third of the scan.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import NamedTuple

from experiments.plans.accelerators import Accelerator
from experiments.plans.costs import Cost, costs, total
from experiments.plans.workloads import STATES, Workload

REAL, COMPLEX = 4, 8
"""Bytes of a number."""

STATE_COPIES = 4
"""Of the parameters: themselves, their gradient, Adam's two moments."""

USABLE = 0.9
"""Share of a device's memory that a step may take."""

FIRST_PASS = 4 / 3
"""What making the affine maps of blocks of time adds to the scan, as a share of it."""


class Layout(NamedTuple):
    """Devices along each axis of the mesh."""

    data: int = 1
    fsdp: int = 1
    frequency: int = 1
    time: int = 1

    @property
    def devices(self) -> int:
        """Their number."""
        return self.data * self.fsdp * self.frequency * self.time

    def __str__(self) -> str:
        named = [f"{name} {size}" for name, size in self._asdict().items() if size > 1]
        return ", ".join(named) or "one device"


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step on every device of a layout, at best: at peak rates, nothing idle.

    Attributes:
        layout: the mesh.
        arithmetic_s: seconds of arithmetic.
        memory_s: seconds to move its bytes.
        network_s: seconds to send what it sends.
        held: bytes held.
        fits: whether they fit.
    """

    layout: Layout
    arithmetic_s: float
    memory_s: float
    network_s: float
    held: float
    fits: bool

    @property
    def seconds(self) -> float:
        """Arithmetic and memory side by side, then the network, which nothing hides."""
        return max(self.arithmetic_s, self.memory_s) + self.network_s

    @property
    def bound(self) -> str:
        """What takes most of it."""
        times = {"arithmetic": self.arithmetic_s, "memory": self.memory_s}
        times["network"] = self.network_s
        return max(times, key=lambda name: times[name])


def step_on(work: Workload, layout: Layout, device: Accelerator) -> Step:
    """Returns what a step costs on every device of a layout."""
    own = total(own_costs(work, layout).values())
    images = work.batch * work.frames * 3 * work.pixels * REAL
    share = layout.data * layout.fsdp * (layout.time if work.video else 1)
    held = STATE_COPIES * REAL * work.parameters / layout.fsdp + own.temporary + images / share
    return Step(
        layout,
        own.matrix / device.matrix + own.vector / device.vector,
        own.moved / device.bandwidth,
        network_seconds(work, layout, device),
        held,
        held <= USABLE * device.memory,
    )


def own_costs(work: Workload, layout: Layout) -> dict[str, Cost]:
    """Returns the cost of each part of a step on one device of a layout."""
    examples = layout.data * layout.fsdp
    frames = examples * (layout.time if work.video else 1)
    pieces = dict.fromkeys(("stem", "convolutions"), frames)
    pieces |= {"transforms": frames * layout.frequency, "optimizer": layout.fsdp}
    steps = examples * layout.frequency * layout.time
    again = {"scan": 1 + FIRST_PASS} if layout.time > 1 else {}
    return {
        part: cost.times(again.get(part, 1) / pieces.get(part, steps))
        for part, cost in costs(work).items()
    }


def bytes_sent(work: Workload, layout: Layout) -> dict[str, float]:
    """Returns the bytes that a device sends in a step, by axis."""
    d, z, q, s = layout
    batch, frames = work.batch / (d * z), work.frames / (s if work.video else 1)
    weights, group = REAL * work.parameters, layout.devices // z
    spectra = COMPLEX * work.width * work.frequencies / q
    maps = REAL * work.width * work.cells
    matrix, offset = STATES * STATES * spectra, STATES * spectra
    return {
        "data": 2 * (group - 1) / group * weights / z,
        "fsdp": 3 * (z - 1) / z * weights,
        "frequency": 2 * (q - 1) / q * batch * ((frames + 1) * (spectra + maps)),
        "time": batch * ((s - 1) * (matrix + 2 * offset) + (2 * offset if s > 1 else 0)),
    }


def network_seconds(work: Workload, layout: Layout, device: Accelerator) -> float:
    """Returns the time to send what a device sends.

    Axes are laid out from the inside: frequency, time, fsdp, data. Those that end within a node go
    over its links, the others at the rate between nodes.
    """
    sent, seconds, inside = bytes_sent(work, layout), 0.0, 1
    for axis in ("frequency", "time", "fsdp", "data"):
        inside *= getattr(layout, axis)
        seconds += sent[axis] / (device.near if inside <= device.node else device.far)
    return seconds


def layouts(work: Workload, devices: int) -> Iterator[Layout]:
    """Yields the layouts of so many devices that divide batch, rows, channels and steps."""
    powers = [2**i for i in range(devices.bit_length())]
    for d, z, q in itertools.product(powers, repeat=3):
        layout = Layout(d, z, q, max(1, devices // (d * z * q)))
        if (
            layout.devices == devices
            and work.batch % (d * z) == 0
            and work.side % q == 0
            and work.width % q == 0
            and work.steps % layout.time == 0
        ):
            yield layout


def best_layout(work: Workload, devices: int, device: Accelerator) -> Step | None:
    """Returns the fastest step on so many devices that fits their memory, or None."""
    steps = [step_on(work, layout, device) for layout in layouts(work, devices)]
    return min((step for step in steps if step.fits), key=lambda step: step.seconds, default=None)
