r"""How had vision better enter a language model? Trains the mechanisms and writes a page.

    python -m experiments.injection_comparison --out=runs/injection_comparison \
        [--seeds=0,1,2] [--processes=2] [--steps=N]

Runs that are done are kept; the same command goes on where it stopped. The page,
injection_comparison.html, is written at the end, and with --page of the runs that there are.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.comparisons.injection import members
from experiments.comparisons.members import Member
from experiments.comparisons.running import compare, make_parser, read_seeds, shorter
from experiments.injection import make_task


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = make_parser(
        "Compares ways of putting vision into language, over seeds.", "runs/injection_comparison"
    )
    return compare(parser.parse_args(argv), _members, make_task, _write_page)


def _members(flags: argparse.Namespace) -> list[Member]:
    return members(read_seeds(flags.seeds), shorter(flags.steps))


def _write_page(chosen: Sequence[Member], out: Path, kept: Path | None) -> Path:
    from experiments.reports.injection_comparison import write_page  # brings in JAX

    return write_page(chosen, out, kept)


if __name__ == "__main__":
    sys.exit(main())
