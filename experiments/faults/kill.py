"""kill -9 at any moment: rows 1 to 3 and 22 of the fault table."""

import dataclasses
import itertools
import random
import signal
import time
from pathlib import Path

from common.errors import UserError
from experiments.faults.runs import Run, Session, differences, reference

AFTER_A_STEP = (0.3, 3.5)
"""Seconds between the first step and most kills."""

IN_A_SAVE = (0.0, 0.05)
"""Seconds between the appearance of a temporary folder and a kill in a save."""

BEFORE_A_STEP = (0.0, 6.0)
"""Seconds between the start and a kill while the program loads, restores or compiles."""


@dataclasses.dataclass
class Counts:
    """What happened to the runs.

    Attributes:
        kills: Processes killed, by when: 'after a step', 'in a save' or 'before a step'.
        resumed: Processes after a kill that ended the run, or went on until they were killed.
        repeated: Largest number of steps that were made again after a kill.
        differing: Names of records or digests that are not those of the uninterrupted run.
    """

    kills: dict[str, int] = dataclasses.field(default_factory=dict)
    resumed: int = 0
    repeated: int = 0
    differing: list[str] = dataclasses.field(default_factory=list)

    def total(self) -> int:
        """Counts the kills."""
        return sum(self.kills.values())


def kill(base: Path, times: int, seed: int) -> bool:
    """Kills runs `times` times and prints whether anything came of it; true if nothing did."""
    rng = random.Random(seed)
    expected, counts = reference(base), Counts()
    for number in itertools.count():
        run = Run(base, f"killed-{number}")
        _kill_until_done(run, times, rng, counts)
        counts.differing += [f"{run.workdir}: {x}" for x in differences(run.outcome(), expected)]
        if counts.total() == times:
            break
    print(f"{times} kills, {counts.resumed} resumed, {len(counts.differing)} differences")
    print(f"  {counts.kills}; at most {counts.repeated} steps made again; {number + 1} runs")
    print("\n".join(counts.differing[:20]))
    return counts.resumed == times and not counts.differing


def _kill_until_done(run: Run, times: int, rng: random.Random, counts: Counts) -> None:
    """Starts the run again and again; kills each process until there were `times` kills."""
    killed_at = None
    while not run.finished():
        session = run.start()
        when = _wait_for_moment(session, rng) if counts.total() < times else None
        if when is not None:
            session.signal(signal.SIGKILL)
        status = session.wait()
        if status not in (0, -signal.SIGKILL):
            raise UserError(f"{run.workdir} ended with status {status}: {session.said()}")
        if killed_at is not None:
            counts.resumed += 1
            if (start := session.resumed_at()) is not None:
                counts.repeated = max(counts.repeated, killed_at - start)
        killed_at = None
        if status == -signal.SIGKILL and when is not None:
            counts.kills[when] = counts.kills.get(when, 0) + 1
            killed_at = run.last_step()


def _wait_for_moment(session: Session, rng: random.Random) -> str | None:
    """Waits until the process is to be killed; None if it ends before."""
    when = rng.choices(("after a step", "in a save", "before a step"), (6, 3, 1))[0]
    if when == "before a step":
        time.sleep(rng.uniform(*BEFORE_A_STEP))
        return when
    if not session.wait_for_step():
        return None
    if when == "in a save":
        if not session.wait_until(session.run.saving):
            return None
        time.sleep(rng.uniform(*IN_A_SAVE))
    else:
        time.sleep(rng.uniform(*AFTER_A_STEP))
    return when
