"""A full disk: row 9 of the fault table."""

import resource
import signal
from pathlib import Path

from common.checkpoints.record import read_record
from experiments.faults.runs import Run, differences, reference

SIZES = {"model.embed_dim": 48, "train.log_every": 20}
"""What makes a checkpoint the largest file by far."""

SHARE = 0.5
"""The largest file that may be written, as a share of the largest of a checkpoint."""


def disk(base: Path, times: int, seed: int) -> bool:
    """Runs with too little room for a checkpoint and prints what came of it; true if all was well.

    A limit on the size of files stands for the full disk: every save fails part of the way.
    """
    del seed
    whole, problems = reference(base, SIZES), []
    for number in range(times):
        run = Run(base, f"disk-{number}", SIZES)
        session = run.start()
        session.wait_until(lambda run=run: run.last_step() >= 20)
        session.signal(signal.SIGTERM)
        session.wait()
        before = _digests(run)
        most = int(SHARE * max(p.stat().st_size for p in run.checkpoints.rglob("*") if p.is_file()))
        session = run.start(
            lambda most=most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        )
        status, said = session.wait(), session.said()
        print(f"  full: status {status}, {said.splitlines()[-1] if said else 'nothing said'}")
        if status == 0 or "too large" not in said or "Traceback" in said:
            problems.append(f"status {status}: {said}")
        if any(_digests(run).get(step) != found for step, found in before.items()):
            problems.append("a finished checkpoint was lost")
        run.finish()
        if any(run.checkpoints.glob("*tmp*")):
            problems.append("something was left behind")
        problems += differences(run.outcome(), whole)
    print(f"{times} full disks, {len(problems)} problems or differences")
    print("\n".join(problems[:20]))
    return not problems


def _digests(run: Run) -> dict[str, dict[str, str]]:
    folders = [path for path in run.checkpoints.iterdir() if path.name.isdecimal()]
    return {path.name: read_record(path).digests for path in folders}
