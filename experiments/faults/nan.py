"""Loss or gradient that is not finite: row 15 of the fault table."""

import re
from pathlib import Path

import numpy as np

from common.data.pipeline import training_indices
from common.train import read_records
from experiments.faults.runs import Run
from experiments.faults.subject import POISONED, SIZES

EXAMPLE = 17
"""Number of the example whose loss is made NaN."""


def nan(base: Path, times: int, seed: int) -> bool:
    """Lets runs meet a number that is not finite, and prints where they end."""
    del times, seed
    first = _first_step_with(EXAMPLE)
    poison = {POISONED: str(EXAMPLE)}
    results = [
        _stops(Run(base, "overflow", {"optim.learning_rate": 1e30}), None),
        _stops(Run(base, "poisoned", {}, poison), first),
        _skips(Run(base, "skipped", {"train.max_skipped_steps": 6}, poison)),
        _stops(Run(base, "skips-too-often", {"train.max_skipped_steps": 2}, poison), None),
    ]
    print(f"{sum(results)} of {len(results)} runs ended as they should")
    return all(results)


def _first_step_with(example: int) -> int:
    sizes = (SIZES["data.train_count"], SIZES["train.batch_size"])
    return next(n + 1 for n in range(1000) if example in training_indices(*sizes, 0, n))


def _stops(run: Run, expected: int | None) -> bool:
    """Tells whether the run stops and names step, quantity, examples and checkpoint."""
    session = run.start()
    status, said = session.wait(), session.said()
    print(f"  {run.workdir.name}: status {status}: {said.splitlines()[-1] if said else ''}")
    match = re.search(
        r"step (\d+) is not finite \(loss .* examples .* checkpoint is (.*); --", said
    )
    if match is None or status != 2:
        return False
    step, records = int(match[1]), read_records(run.workdir / "metrics.jsonl")
    losses = [record.get("loss", 0) for record in records]  # none where the step was skipped
    return expected in (None, step) and bool(np.isfinite(losses).all())


def _skips(run: Run) -> bool:
    """Tells whether the run skips what is not finite and comes to its end."""
    run.finish()
    records = read_records(run.workdir / "metrics.jsonl")
    skipped = sum(record.get("skipped_steps", 0) for record in records)
    print(f"  {run.workdir.name}: done, {skipped} steps skipped")
    return skipped > 2
