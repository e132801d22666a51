r"""Does a short causal convolution replace attention layers? Trains the models and writes a page.

    python -m experiments.language_comparison --out=runs/language_comparison \
        [--text=FOLDER] [--seeds=0,1,2] [--processes=2] [--steps=N]

Runs that are done are kept; the same command goes on where it stopped. The page,
language_comparison.html, is written at the end, and with --page of the runs that there are.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.comparisons.language import members
from experiments.comparisons.members import Member
from experiments.comparisons.running import compare, make_parser, read_seeds, shorter
from experiments.language import make_task


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = make_parser("Compares language models over seeds.", "runs/language_comparison")
    parser.add_argument(
        "--text", type=Path, help="folder with wiki.{train,valid,test}.raw; made-up text if absent"
    )
    return compare(parser.parse_args(argv), _members, make_task, _write_page)


def _members(flags: argparse.Namespace) -> list[Member]:
    return members(read_seeds(flags.seeds), _text(flags.text), shorter(flags.steps))


def _write_page(chosen: Sequence[Member], out: Path, kept: Path | None) -> Path:
    from experiments.reports.language_comparison import write_page  # brings in JAX

    return write_page(chosen, out, kept)


def _text(folder: Path | None) -> dict[str, Any]:
    if folder is None:
        return {"data.kind": "made_up"}
    return {"data.kind": "wikitext", "data.path": str(folder)}


if __name__ == "__main__":
    sys.exit(main())
