"""SIGTERM and Ctrl-C: rows 4 and 5 of the fault table."""

import itertools
import random
import signal
import time
from pathlib import Path

from experiments.faults.runs import Run, Session, differences, reference

TWICE = 0.3
"""Share of SIGTERMs that come twice, which does no harm."""


def sigterm(base: Path, times: int, seed: int) -> bool:
    """Stops runs `times` times by SIGTERM and prints what came of it; true if all went well."""
    return _stop(base, times, random.Random(seed), signal.SIGTERM, 0)


def ctrl_c(base: Path, times: int, seed: int) -> bool:
    """Does the same by the signal of Ctrl-C."""
    return _stop(base, times, random.Random(seed), signal.SIGINT, 130)


def _stop(
    base: Path, times: int, rng: random.Random, number: signal.Signals, expected: int
) -> bool:
    whole, seconds, problems, differing = reference(base), [], [], []
    for name in itertools.count():
        run = Run(base, f"{number.name}-{name}")
        while not run.finished():
            session = run.start()
            if len(seconds) < times and _wait_for_moment(session, rng):
                begin = time.monotonic()
                session.signal(number)
                if number == signal.SIGTERM and rng.random() < TWICE:
                    session.signal(number)
                status = session.wait()
                seconds.append(time.monotonic() - begin)
                problems += _problems(run, session, status, expected)
            elif status := session.wait():
                problems.append(f"status {status}: {session.said()}")
                break
        differing += differences(run.outcome(), whole)
        if len(seconds) == times:
            break
    print(
        f"{times} times {number.name}, {times - len(problems)} ended with status {expected} and "
        f"the step they were at saved, {max(seconds):.1f} s after the signal at most; "
        f"{len(differing)} differences"
    )
    print("\n".join([*problems, *differing][:20]))
    return not problems and not differing


def _wait_for_moment(session: Session, rng: random.Random) -> bool:
    """Waits until the signal is due: in a compilation, in a save, or at any step."""
    when = rng.choice(("compiling", "saving", "training", "training"))
    if when == "compiling":
        return session.wait_until(lambda: "compiling" in session.said())
    if not session.wait_for_step():
        return False
    if when == "saving":
        return session.wait_until(session.run.saving)
    time.sleep(rng.uniform(0, 2))
    return session.process.poll() is None


def _problems(run: Run, session: Session, status: int, expected: int) -> list[str]:
    """Says what is wrong with a run that was stopped, if anything."""
    if run.finished() and status == 0:
        return []  # it was done just then
    if status != expected or "Traceback" in session.said():
        return [f"status {status}: {session.said()}"]
    names = [path.name for path in run.checkpoints.iterdir()]
    saved = max((int(name) for name in names if name.isdecimal()), default=0)
    if saved != run.last_step():
        return [f"the newest checkpoint is of step {saved}, the record goes to {run.last_step()}"]
    return []
