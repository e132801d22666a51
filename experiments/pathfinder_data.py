"""Pathfinder data sets on disk: writes them in common formats, and looks into those there are."""

import argparse
import datetime
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from common.errors import UserError
from experiments.parsing import HelpShown, Parser, nearest

COMMAND = "python -m experiments.pathfinder_data"
FORMATS = ("array_record", "tfrecord", "png")
LAYOUTS = ("matched", "reference")
DEFAULTS = {"size": 128, "format": "array_record", "layout": "matched", "seed": 0}
SETTING_FLAGS = {"contour_length": "length", "image_size": "size"}
OPTIONAL_SETTINGS = ("window", "padding", "distractors", "seed_distance")
LEAST_COUNT = 20
BAR = 24
TTY_SECONDS, PLAIN_SECONDS = 0.2, 10.0

HELP_END = f"""\
--count is the number of images in all: 80 % train, 10 % validation, 10 % test, each number even,
so that half of every split is positive. Stop it whenever you like; the same command goes on.

examples:
  {COMMAND} --length=14 --size=128 --count=200000 --out=data
  {COMMAND} --length=6 --size=64 --count=20000 --out=data --format=png
  {COMMAND} --inspect=data/curv_contour_length_6
"""


class _Stopped(KeyboardInterrupt):
    """Ends the work after SIGTERM, by the way that Ctrl-C takes."""


class ImageProgress:
    """Writes one line that tells how many images are done and how long the rest will take.

    On a terminal the line is rewritten in place, elsewhere a new one is written every ten seconds
    and at the end. What the first call reports as done does not count for the speed.

    Args:
        label: begins the line.
        stream: where to write, by default standard error.
    """

    def __init__(self, label: str, stream: TextIO | None = None):
        self.done = self.total = 0
        self._label = label
        self._stream = stream or sys.stderr
        self._rewrite = self._stream.isatty()
        self._first: tuple[int, float] | None = None
        self._next_time = 0.0
        self._width = 0

    def __call__(self, done: int, total: int) -> None:
        """Hears that `done` of `total` images are done."""
        now = time.monotonic()
        self.done, self.total = done, total
        self._first = self._first or (done, now)
        if now < self._next_time and done < total:
            return
        self._next_time = now + (TTY_SECONDS if self._rewrite else PLAIN_SECONDS)
        line = self._describe(now)
        if self._rewrite:
            self._stream.write(f"\r{line:<{self._width}}")
            self._width = len(line)
            if done == total:
                self.close()
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """Leaves the last line standing."""
        if self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0

    def _describe(self, now: float) -> str:
        assert self._first is not None
        made, seconds = self.done - self._first[0], now - self._first[1]
        share = self.done / self.total
        bar = "#" * int(BAR * share)
        text = f"{self._label} [{bar:.<{BAR}}] {100 * share:.0f} %  {self.done:,}/{self.total:,}"
        if made and seconds:
            left = round((self.total - self.done) * seconds / made)
            text += f"  {made / seconds:,.0f} images/s"
            text += f"  ETA {datetime.timedelta(seconds=left)}" if left else ""
        return text


def split_counts(count: int) -> dict[str, int]:
    """Cuts a number of images into 80, 10 and 10 %: validation and test rounded down to even."""
    tenth = count // 20 * 2
    return {"train": count - 2 * tenth, "validation": tenth, "test": tenth}


def write(flags: argparse.Namespace) -> None:
    """Writes the data set that the flags describe, or goes on with it."""
    from common.data.pathfinder.export import SHARD_SIZE, export

    settings = _make_settings(flags)
    progress = ImageProgress("writing")
    start = time.monotonic()
    try:
        folder = export(
            settings,
            split_counts(flags.count),
            flags.out,
            flags.format,
            seed=flags.seed,
            workers=flags.workers,
            shard_size=flags.shard_size or SHARD_SIZE,
            report=progress,
        )
    except KeyboardInterrupt as stop:
        progress.close()
        state = f"{progress.done:,} of {flags.count:,} images are written"
        print(f"stopped: {state}; run the same command to go on", file=sys.stderr)
        raise SystemExit(143 if isinstance(stop, _Stopped) else 130) from None
    finally:
        progress.close()
    seconds = datetime.timedelta(seconds=round(time.monotonic() - start))
    parts = ", ".join(f"{n:,} {split}" for split, n in split_counts(flags.count).items())
    print(f"{folder}: {flags.count:,} images ({parts}), {seconds}")


def _make_settings(flags: argparse.Namespace) -> Any:
    from common.data.pathfinder import PathfinderSettings

    given = {name: getattr(flags, name) for name in OPTIONAL_SETTINGS}
    return PathfinderSettings(
        image_size=flags.size,
        contour_length=flags.length,
        layout=flags.layout,
        **{name: value for name, value in given.items() if value is not None},
    )


def _name_flags(message: str) -> str:
    """Writes the settings in a message, 'data.image_size', as the flags of this command line."""
    return re.sub(r"\bdata\.(\w+)", lambda m: f"--{SETTING_FLAGS.get(m[1], m[1])}", message)


def _make_parser() -> Parser:
    parser = Parser(
        usage=f"{COMMAND} --length=N --count=N --out=DIR [--size=N]\n"
        f"       [--format={'|'.join(FORMATS)}] [--layout={'|'.join(LAYOUTS)}] ...\n"
        f"       {COMMAND} --inspect=DIR [--sheet=FILE.png]",
        description="Writes Pathfinder data sets to disk, or looks into one.",
        epilog=HELP_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    integer, number = _type(int, "an integer"), _type(float, "a number")
    add = parser.add_argument
    add("--length", type=integer, metavar="N", help="paddles in a target contour, e.g. 6, 9, 14")
    add("--size", type=integer, metavar="N", help="side of the images, pixels (default: 128)")
    add("--count", type=integer, metavar="N", help="number of images in all splits together")
    add("--out", metavar="DIR", help="folder below which the data set's own is made")
    add("--format", type=_choice(FORMATS), help="file format (default: array_record)")
    add("--layout", type=_choice(LAYOUTS), help="placing of the discs (default: matched)")
    add("--window", type=number, metavar="X", help="side of the drawn part of the plane")
    add("--padding", type=number, metavar="X", help="border that no paddle may enter")
    add("--distractors", type=integer, metavar="N", help="number of distractor contours")
    add("--seed_distance", type=number, metavar="X", help="distance between the targets' tails")
    add("--seed", type=integer, metavar="N", help="seed of the whole data set (default: 0)")
    add("--workers", type=integer, metavar="N", help="processes (default: one for each core)")
    add("--shard_size", type=integer, metavar="N", help="images in a shard (default: 1024)")
    add("--inspect", metavar="DIR", help="data set to look into instead of writing one")
    add("--sheet", metavar="FILE", help="contact sheet (default: DIR/contact_sheet.png)")
    return parser


def _type(kind: Callable[[str], Any], expected: str) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}") from error

    return convert


def _choice(names: Sequence[str]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(
                f"unknown name {text!r}; the nearest is {nearest(text, names)} "
                f"(of {', '.join(names)})"
            )
        return text

    return convert


def _read_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the flags, checked as far as that goes without the generator."""
    parser = _make_parser()
    flags, others = parser.parse_known_args(argv)
    if others:
        name = others[0].partition("=")[0]
        if not name.startswith("-"):
            raise UserError(f"unexpected argument {others[0]!r}; values are written --flag=VALUE")
        near = nearest(name, [f"--{known}" for known in [*vars(flags), "help"]])
        raise UserError(f"unknown flag {name}; the nearest is {near}")
    given = [name for name, value in vars(flags).items() if value is not None]
    if flags.inspect is not None:
        for name in given:
            if name not in ("inspect", "sheet"):
                raise UserError(f"--{name}: only for writing; --inspect takes --sheet alone")
        return flags
    if flags.sheet is not None:
        raise UserError("--sheet: only with --inspect")
    for name in ("length", "count", "out"):
        if getattr(flags, name) in (None, ""):
            raise UserError(f"--{name}: missing; it is needed to write a data set, see --help")
    for name, value in DEFAULTS.items():
        if getattr(flags, name) is None:
            setattr(flags, name, value)
    _check_ranges(flags)
    return flags


def _check_ranges(flags: argparse.Namespace) -> None:
    if flags.count < LEAST_COUNT or flags.count % 2:
        raise UserError(
            f"--count: expected an even number, {LEAST_COUNT} or more, got {flags.count}"
        )
    for name, least in (("seed", 0), ("workers", 0), ("shard_size", 2)):
        value = getattr(flags, name)
        if value is not None and value < least:
            raise UserError(f"--{name}: expected {least} or more, got {value}")
    if flags.shard_size is not None and flags.shard_size % 2:
        raise UserError(f"--shard_size: expected an even number, got {flags.shard_size}")
    if Path(flags.out).exists() and not Path(flags.out).is_dir():
        raise UserError(f"--out: {flags.out!r} is a file; expected a folder")


def _inspect(flags: argparse.Namespace) -> int:
    from experiments.reports.dataset import inspect_dataset

    return inspect_dataset(flags.inspect, flags.sheet, progress=ImageProgress)


def _on_sigterm(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Stopped


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    It is 0 when done, 1 when an inspected data set is damaged, 2 after a mistake of the user's or
    a full disk, 130 after Ctrl-C, 143 after SIGTERM.
    """
    before = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        flags = _read_flags(argv)
        if flags.inspect is not None:
            return _inspect(flags)
        write(flags)
        return 0
    except UserError as error:
        print("error:", _name_flags(" ".join(str(error).split())), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("stopped", file=sys.stderr)
        return 143 if isinstance(stop, _Stopped) else 130
    except HelpShown:
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
