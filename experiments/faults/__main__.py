"""Puts faults on small real runs and counts what comes of it.

    python -m experiments.faults kill --times=50

Each experiment makes one run that nothing happens to, and compares all others with it, bit for bit.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from common.errors import UserError
from experiments.faults.damage import damage
from experiments.faults.disk import disk
from experiments.faults.kill import kill
from experiments.faults.lock import lock
from experiments.faults.nan import nan
from experiments.faults.signals import ctrl_c, sigterm

FAULTS: dict[str, tuple[Callable[[Path, int, int], bool], int]] = {
    "kill": (kill, 50),
    "damage": (damage, 100),
    "sigterm": (sigterm, 10),
    "ctrl_c": (ctrl_c, 5),
    "disk": (disk, 3),
    "lock": (lock, 5),
    "nan": (nan, 1),
}
"""Function and usual number of times of each fault."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0 if all runs ended as they should, 1 if not, 2 on misuse."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.faults", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("fault", choices=FAULTS, help="what to put on the runs")
    parser.add_argument("--times", type=int, help="how often (default: as in docs/runs.md)")
    parser.add_argument("--seed", type=int, default=0, help="chooses the moments (default: 0)")
    parser.add_argument(
        "--workdir", type=Path, help="an empty folder to keep the runs (default: they are deleted)"
    )
    flags = parser.parse_args(argv)
    fault, usual = FAULTS[flags.fault]
    base = flags.workdir or Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        if base.exists() and any(base.iterdir()):
            raise UserError(f"--workdir: {base} is not empty")
        base.mkdir(parents=True, exist_ok=True)
        return 0 if fault(base.absolute(), flags.times or usual, flags.seed) else 1
    except UserError as error:
        print("error:", error, file=sys.stderr)
        return 2
    finally:
        if flags.workdir is None:
            shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
