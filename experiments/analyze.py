"""Takes a trained model apart: all figures, and one page that says what they show."""

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from experiments.parsing import Parser, status_of


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 0, or 2 for a mistake that one line on stderr names."""

    def work() -> int:
        flags, known = _read_arguments(sys.argv[1:] if argv is None else argv)
        return analyze(flags.checkpoint, flags.out, flags.data, flags.images, known)

    return status_of(work)


def analyze(
    checkpoint: Path, out: Path, data: Path | None, images: int, known: dict[str, Any]
) -> int:
    """Writes the page and prints its path; see `experiments.analyses`."""
    _make_writable(out)
    from common.train import use_cache  # brings in JAX, which mistakes do not wait for
    from experiments.analyses import open_subject
    from experiments.analyses.page import write_analysis

    use_cache()
    subject = open_subject(checkpoint, data, images, **known)
    path = write_analysis(subject, out, lambda line: print(line, file=sys.stderr, flush=True))
    print("page:", path)
    return 0


def _read_arguments(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = Parser(
        prog="python -m experiments.analyze",
        description=__doc__,
        epilog="--model.KEY=VALUE tells what a foreign checkpoint does not, e.g. "
        "--model.pos_embed=temporal --model.seq_len=8; see cssm.checkpoint_to_model",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="PATH",
        help="a pickle, a run's folder (its best step, or the newest while it goes on), a folder "
        "of Orbax, or safetensors",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the page")
    parser.add_argument(
        "--data", type=Path, metavar="PATH",
        help="TFRecords, a folder of PNG files or .npz (default: images generated as for the "
        "checkpoint's run; some sections need these)",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=int, default=256, metavar="N", help="how many (default: %(default)s)"
    )
    arguments = [text for text in argv if not text.startswith("--model.")]
    known = [text for text in argv if text.startswith("--model.")]
    return parser.parse_args(arguments), dict(map(_split, known))


def _split(argument: str) -> tuple[str, Any]:
    name, equals, value = argument.removeprefix("--model.").partition("=")
    if not equals or not name:
        raise UserError(f"{argument}: expected --model.KEY=VALUE, without a space")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _make_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: cannot make {str(out)!r}: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
