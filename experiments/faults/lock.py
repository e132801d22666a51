"""A second process on the folder of a run: row 13 of the fault table."""

import random
import signal
import time
from pathlib import Path

from experiments.faults.runs import Run, differences, reference


def lock(base: Path, times: int, seed: int) -> bool:
    """Starts two processes on one folder `times` times, up to 2 s apart; true if one is refused.

    The one that trains is then killed, and a third must not find its lock in the way.
    """
    rng, whole = random.Random(seed), reference(base)
    refused, blocked, slowest, differing = 0, 0, 0.0, []
    for number in range(times):
        run = Run(base, f"shared-{number}")
        pair = [run.start()]
        time.sleep(rng.uniform(0, 2))
        pair.append(run.start())
        pair[0].wait_until(lambda pair=pair: pair[1].process.poll() is not None)
        trains, other = sorted(pair, key=lambda session: session.process.poll() is not None)
        slowest = max(slowest, other.seconds())
        name = f"is in use by process {trains.process.pid} on "
        refused += other.wait() == 2 and name in other.said()
        trains.wait_for_step()
        trains.signal(signal.SIGKILL)
        trains.wait()
        third = run.start()
        blocked += third.wait() != 0
        differing += differences(run.outcome(), whole)
    print(
        f"{times} pairs, {refused} times one was refused and told who trains, at most "
        f"{slowest:.1f} s after its start; {blocked} restarts blocked by a dead process; "
        f"{len(differing)} differences"
    )
    return refused == times and not blocked and not differing
