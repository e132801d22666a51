"""The page docs/scaling.md."""

import inspect
import json
from collections.abc import Iterable, Sequence

from common.train.memory import format_bytes
from experiments.plans import costs, layouts
from experiments.plans.accelerators import ACCELERATORS, H100, Accelerator
from experiments.plans.costs import COUNTS, counted_steps, entries, factors, total
from experiments.plans.layouts import Layout, Step, best_layout, bytes_sent, step_on
from experiments.plans.measured import TIMED, Rates, least_seconds
from experiments.plans.workloads import PATHFINDER, VIDEO, Workload

TOLERANCE = 0.2
"""Relative difference between the model and XLA's counts that is aimed at."""

HELD = {"temporary": "bytes held", "moved": "bytes moved"}

DEVICES = (1, 8, 64, 1024)
WORKLOADS = (PATHFINDER, VIDEO)


def make_page() -> str:
    """Returns the text of the page."""
    record = json.loads(COUNTS.read_text())
    sections = [_introduction(), _sizes(), _equations(), _check(record), _machine(record)]
    sections += [_accelerators(), *(_plans(work) for work in WORKLOADS), _limits()]
    return "\n\n".join(sections) + "\n"


def _introduction() -> str:
    return (
        "# Training past one machine\n\n"
        "What a training step of the Q/K/A model would cost on machines that are not at hand: a "
        "plan from a cost model, **no measurement**. `python -m experiments.scaling_plan` writes "
        "this page, `--check` compares the model with the machine at hand and tells whether the "
        "page is up to date.\n\n"
        "All times are at best: peak rates of the data sheets, nothing idle, and nothing of the "
        "network hidden. Real steps take a few times as long; what holds is the order of sizes "
        "and what binds first."
    )


def _sizes() -> str:
    rows = []
    for work in WORKLOADS:
        cost = total(costs.costs(work).values())
        rows.append(
            [
                work.name,
                f"{work.batch} x {work.frames} x {work.size}²",
                f"{work.steps}",
                f"{work.width}, {work.kernel} x {work.kernel}",
                f"{work.parameters / 1e6:.2f} M",
                _si(cost.operations, "FLOP"),
                f"{cost.matrix / cost.operations:.0%}",
                format_bytes(cost.moved),
                format_bytes(cost.temporary),
            ]
        )
    head = ["", "batch x frames x pixels", "time steps", "width, kernel", "parameters"]
    head += ["operations", "in matrix units", "moved", "activations"]
    return "## Two training steps\n\n" + _table(head, rows)


def _equations() -> str:
    text = [inspect.getdoc(module) or "" for module in (costs, layouts)]
    found = factors()
    rows = [
        [name, *(f"{found[figure][name]:,.0f}" for figure in costs.FIGURES)]
        for name in entries(PATHFINDER)
    ]
    head = ["for each entry of", "operations", "bytes moved", "bytes held"]
    return (
        "## The model\n\n" + text[0] + "\n\n" + _table(head, rows) + "\n\n"
        "An entry of the stem is a channel of a pixel, one of the scan a complex number for a "
        "channel of a frequency at a time. The factors are those of XLA's compiler for the CPU; "
        "one for GPUs joins more operations into one, and a kernel that keeps the scan's states "
        "in registers would move a tenth of these bytes.\n\n"
        "### Several devices\n\n" + text[1]
    )


def _check(record: dict) -> str:
    rows, off = [], []
    for step in counted_steps():
        ratios = step.ratios()
        rows.append([step.work.name, "yes" if step.fitted else "no"])
        rows[-1] += [f"{ratio:.2f}" for ratio in ratios.values()]
        off += [
            f"{HELD.get(figure, figure)} of {step.work.name} ({ratio:.2f})"
            for figure, ratio in ratios.items()
            if abs(ratio - 1) > TOLERANCE
        ]
    found = f"Outside {TOLERANCE:.0%}: {'; '.join(off)}." if off else f"All within {TOLERANCE:.0%}."
    return (
        "## The model beside XLA's counts\n\n"
        "Model over XLA's count of the whole compiled step, loops over time unrolled and "
        f"transforms taken as XLA takes them (jax {record['jax']}, {record['date']}).\n\n"
        + _table(["step", "fitted to it", "operations", "bytes moved", "bytes held"], rows)
        + f"\n\n{found}"
    )


def _machine(record: dict) -> str:
    rates = Rates(**record["rates"])
    rows = []
    for work in TIMED:
        least, seconds = least_seconds(work, rates), record["times"][work.name]
        rows.append([work.name, f"{1e3 * least:.3g}", f"{1e3 * seconds:.3g}"])
        rows[-1] += [f"{seconds / least:.1f}"]
    return (
        "### The model beside a clock\n\n"
        f"On {record['machine']}, busy with other programs ({record['date']}): products of "
        f"matrices {_si(rates.matrix, 'FLOP/s')}, a polynomial {_si(rates.vector, 'FLOP/s')}, a "
        f"copy within the caches {_si(rates.bandwidth, 'B/s')}. Processor time of steps that are "
        "traced as for an accelerator, so that they take XLA's own gradient of a convolution, "
        "slow on a CPU.\n\n" + _table(["step", "at these rates, ms", "measured, ms", "ratio"], rows)
    )


def _accelerators() -> str:
    rows = [
        [
            device.name,
            f"{device.matrix / 1e12:,.0f}",
            f"{device.vector / 1e12:,.0f}",
            f"{device.memory / 1e9:,.0f}",
            f"{device.bandwidth / 1e12:.2f}",
            f"{device.near / 1e9:,.0f} ({device.node:,})",
            f"{device.far / 1e9:,.0f}",
        ]
        for device in ACCELERATORS
    ]
    head = ["", "matrix, TFLOP/s", "vector, TFLOP/s", "memory, GB", "bandwidth, TB/s"]
    head += ["sends to its node (devices), GB/s", "sends beyond, GB/s"]
    notes = [f"- {device.name}: {device.source}." for device in ACCELERATORS]
    return "## Devices\n\nPeak figures.\n\n" + _table(head, rows) + "\n\n" + "\n".join(notes)


def _plans(work: Workload) -> str:
    rows = []
    for device in ACCELERATORS:
        first: tuple[int, float] | None = None
        for devices in DEVICES:
            step = best_layout(work, devices, device)
            if step is not None and first is None:
                first = devices, step.seconds
            rows.append([device.name, f"{devices:,}", *_cells(step, devices, first)])
    head = ["device", "devices", "fastest layout", "step, ms", "arithmetic / memory / network, ms"]
    head += ["held by each", "bound by", "efficiency"]
    return (
        f"## {work.name[0].upper()}{work.name[1:]}: a batch of {work.batch} on more devices\n\n"
        + _table(head, rows)
        + "\n\nEfficiency is that of the smallest number of devices that the step fits on.\n\n"
        + _axes(work)
    )


def _cells(step: Step | None, devices: int, first: tuple[int, float] | None) -> list[str]:
    if step is None or first is None:
        return ["does not fit", "", "", "", "", ""]
    times = (step.arithmetic_s, step.memory_s, step.network_s)
    return [
        str(step.layout),
        f"{1e3 * step.seconds:.3g}",
        " / ".join(f"{1e3 * seconds:.3g}" for seconds in times),
        format_bytes(step.held),
        step.bound,
        f"{first[0] * first[1] / (devices * step.seconds):.0%}",
    ]


def _axes(work: Workload) -> str:
    """Returns what each axis alone gives on the devices of a node, and on more."""
    rows = []
    for devices in (8, 64):
        for axis in Layout._fields:
            layout = Layout(**{axis: devices})
            step, sent = step_on(work, layout, H100), sum(bytes_sent(work, layout).values())
            rows.append([axis, f"{devices}", f"{1e3 * step.seconds:.3g}", format_bytes(sent)])
            rows[-1] += [format_bytes(step.held), "yes" if step.fits else "no"]
            if why := _why_not(work, layout):
                rows[-1] = [axis, f"{devices}", why, "", "", ""]
    head = ["one axis alone", "devices (H100)", "step, ms", "sent by each"]
    return _table([*head, "held by each", "fits"], rows)


def _why_not(work: Workload, layout: Layout) -> str:
    """Returns why a layout cannot be, or nothing."""
    sizes = {"data": work.batch, "fsdp": work.batch, "time": work.steps}
    sizes["frequency"] = min(work.side, work.width)
    for axis, size in sizes.items():
        if size % getattr(layout, axis):
            return f"there are {size} to spread"
    return ""


def _limits() -> str:
    lines = ["## Where it stops, and why", ""]
    for work in WORKLOADS:
        lines += [f"- {_limit(work, H100)}"]
    scan, stem = (total([costs.costs(VIDEO)[part]]).moved for part in ("scan", "stem"))
    lines += [
        "- The parameters are few (gates have one for every frequency and channel): `fsdp` saves "
        "next to nothing here, and sums of gradients cost little until a device has a handful of "
        "images.",
        "- `frequency` divides transforms, projections, gates and scan, but repeats the stem: "
        f"with videos the stem moves {stem / (stem + scan):.0%} of the bytes, which bounds what "
        "the axis gives. It cannot have more devices than the map has rows or the model channels.",
        "- `time` divides all of a video. Every device receives the affine maps of all others: "
        "15 complex numbers for each channel and frequency, a part that does not shrink with more "
        "devices and grows with their number; its use ends where that takes as long as a block "
        "of time. For still images, whose stem and transforms are not divided, it is of no use.",
        "- Not in the model: overlap of network and arithmetic, launch times of kernels (a scan "
        "of 8 steps on a few images is too short to fill a device), imbalance, what the data "
        "pipeline delivers, and checkpoints.",
    ]
    return "\n".join(lines)


def _limit(work: Workload, device: Accelerator) -> str:
    """Says up to how many devices a step gets faster at half of the efficiency or more."""
    counts = [2**i for i in range(15)]
    found = [(n, step) for n in counts if (step := best_layout(work, n, device)) is not None]
    first, least = found[0]
    good = [n for n, step in found if first * least.seconds >= 0.5 * n * step.seconds]
    fastest, step = min(found, key=lambda pair: pair[1].seconds)
    return (
        f"{work.name[0].upper()}{work.name[1:]}, a batch of {work.batch} on {device.name}: fits "
        f"from {first:,} device{'s' if first > 1 else ''} on; half of the devices' time is used up "
        f"to {max(good):,}; the fastest step, {1e3 * step.seconds:.3g} ms, is on {fastest:,} "
        f"({step.layout}), bound by {step.bound}."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _si(value: float, unit: str) -> str:
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
