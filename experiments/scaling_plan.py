"""Plans training past the machine at hand: writes docs/scaling.md from the cost model.

    python -m experiments.scaling_plan              # docs/scaling.md, from the recorded counts
    python -m experiments.scaling_plan --check      # is it up to date, and the model right here?
    python -m experiments.scaling_plan --count      # XLA's counts and step times, ten minutes

Equations stand in `experiments.plans.costs` and `experiments.plans.layouts`.
"""

import argparse
import datetime
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from common.train import describe_environment
from experiments.plans import measured
from experiments.plans.costs import COUNTS, Counted
from experiments.plans.counted import FITTED, HELD_OUT, count
from experiments.plans.page import TOLERANCE, make_page

CLOCK_FACTOR = 10
"""Between a measured step and the least that the model gives at the machine's own rates."""

PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Plans training past the machine at hand.")
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--check", action="store_true", help="compare page and model with this machine"
    )
    action.add_argument(
        "--count", action="store_true", help="record XLA's counts and step times anew"
    )
    flags = parser.parse_args(argv)
    if flags.count:
        record_counts()
    if flags.check:
        problems = [*check_page(), *check_model()]
        for problem in problems:
            print("error:", problem, file=sys.stderr)
        return 1 if problems else 0
    PAGE.write_text(make_page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE}")
    return 0


def record_counts() -> None:
    """Counts and times all steps, and writes `counts.json`."""
    steps = []
    for work in (*FITTED, *HELD_OUT):
        print(f"counting {work.name} ...", flush=True)
        found = count(work)._asdict()
        steps.append({"work": vars(work), "fitted": work in FITTED, **found})
    rates = measured.measure_rates()
    times = {work.name: measured.measure_step(work) for work in measured.TIMED}
    machine = describe_environment()
    content = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "jax": jax.__version__,
        "machine": f"{machine['cpu_cores']} core(s) of an {machine['cpu']}",
        "steps": steps,
        "rates": rates._asdict(),
        "times": times,
    }
    COUNTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def check_page() -> list[str]:
    """Returns what is wrong with the page."""
    found = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if found != make_page():
        return [f"docs/{PAGE.name} is stale; write it with python -m experiments.scaling_plan"]
    return []


def check_model() -> list[str]:
    """Counts and times small steps here; returns where the model is off."""
    problems = []
    new = Counted(measured.SMALL, False, **count(measured.SMALL)._asdict())
    for figure, ratio in new.ratios().items():
        print(f"{new.work.name}: {figure}, model over XLA's count {ratio:.2f}")
        if not 1 - TOLERANCE <= ratio <= 1 + TOLERANCE:
            problems.append(f"the model's {figure} are {ratio:.2f} of XLA's count")
    rates = measured.measure_rates()
    for work in measured.TIMED:
        seconds, least = measured.measure_step(work), measured.least_seconds(work, rates)
        print(f"{work.name}: {1e3 * seconds:.3g} ms, {seconds / least:.2f} times the least")
        if not 1 / CLOCK_FACTOR <= seconds / least <= CLOCK_FACTOR:
            problems.append(f"a step of {work.name} takes {seconds / least:.2f} times the least")
    return problems


if __name__ == "__main__":
    sys.exit(main())
