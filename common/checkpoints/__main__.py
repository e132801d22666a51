"""Converts, shows and checks checkpoints: `python -m common.checkpoints --help`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from common.checkpoints.description import describe_checkpoint
from common.checkpoints.files import (
    FORMATS,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from common.checkpoints.orbax_folders import first_line
from common.errors import DataError, UserError

SUFFIXES = {".pkl": "pickle", ".pickle": "pickle", ".safetensors": "safetensors"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0, 1 for a damaged checkpoint (`verify`), or 2 for a mistake."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print("error: out of memory:", first_line(error), file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m common.checkpoints", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    convert = commands.add_parser("convert", help="write a checkpoint in another format")
    convert.add_argument("source", type=Path, metavar="SRC", help="file, folder or run's folder")
    convert.add_argument("target", type=Path, metavar="DST", help="file or folder to be made")
    convert.add_argument("--to", choices=FORMATS, help="by default as the name of DST says")
    convert.add_argument("--overwrite", action="store_true", help="replace DST if it exists")
    convert.set_defaults(run=_convert)
    for name, run, text in (
        ("inspect", _inspect, "print what a checkpoint holds and which model it loads into"),
        ("verify", _verify, "check a checkpoint against the digests that it carries"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("path", type=Path, metavar="PATH")
        command.set_defaults(run=run)
    return parser


def _convert(options: argparse.Namespace) -> int:
    form = options.to or SUFFIXES.get(options.target.suffix, "orbax")
    content = load_checkpoint(options.source)
    save_checkpoint(options.target, content, form, overwrite=options.overwrite)
    print(f"{options.target}: written as {form}")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    for line in describe_checkpoint(options.path):
        print(line)
    return 0


def _verify(options: argparse.Namespace) -> int:
    find_checkpoint(options.path)  # what is none is a mistake, and no damage
    try:
        print(f"OK: {verify_checkpoint(options.path)}")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
