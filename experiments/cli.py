"""The command line that all experiments share: modes, flags, and the config that they ask for."""

import argparse
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from common.errors import UserError
from experiments import distributed
from experiments.config_files import call_get_config, recorded_config, split_variant
from experiments.outcomes import STATUSES, is_lack_of_memory, lack_of_memory
from experiments.overrides import fields_of, override
from experiments.parsing import Parser, nearest, status_of

Mode = Callable[..., object]


def run(
    modes: Mapping[str, Mode],
    *,
    module: str,
    description: str,
    default_config: Path,
    argv: Sequence[str] | None = None,
) -> int:
    """Runs one mode of an experiment as the command line asks.

    A mistake of the user's ends in one line on stderr, before any device or data is touched.

    Args:
        modes: From a mode's name to its function of (config, workdir), whose docstring's first
            line stands in the help. The first mode is the default and starts or resumes a run in
            workdir; the others read the run that workdir holds. A mode that also takes `step` is
            given the number of --step, one that takes `profile` whether --profile was given, and
            one that takes `command` the command line.
        module: Name of the entry module, e.g. 'experiments.pathfinder'.
        description: First line of the help.
        default_config: Config file that is used without --config.
        argv: Arguments after the program's name; those of this process by default.

    Returns:
        Exit status, as in `STATUSES`.
    """
    parser = _make_parser(modes, module, description, default_config)
    arguments = sys.argv[1:] if argv is None else argv

    def work() -> int:
        mode, config, workdir, further, place = _read_arguments(
            parser, modes, default_config, arguments
        )
        if _takes(modes[mode], "command"):
            further["command"] = ["python", "-m", module, *arguments]
        with distributed.place_of(place):
            return _call(modes[mode], config, workdir, further, alone=place is None)

    return status_of(work)


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """Reads a config file and locks the result.

    Args:
        path: Python file with a function get_config(variant), and after a colon the variant, e.g.
            'experiments/configs/pathfinder.py:smoke'.
        overrides: From a dotted key to its new value, e.g. {'train.steps': 10}. A string is read
            as on the command line, according to the type that the field has.

    Returns:
        The locked config.

    Raises:
        UserError: The file, the variant, a key or a value is wrong.
    """
    file, variant = split_variant(str(path))
    config = call_get_config(file, variant)
    override(config, overrides or {}, str(file))
    return config.lock()


def _make_parser(
    modes: Mapping[str, Mode], module: str, description: str, default_config: Path
) -> Parser:
    command = f"python -m {module}"
    file = os.path.relpath(default_config)
    file = str(default_config) if file.startswith("..") else file
    width = max(map(len, modes))
    stepped = [name for name, mode in modes.items() if _takes(mode, "step")]
    profiled = [name for name, mode in modes.items() if _takes(mode, "profile")]
    last = [name for name in modes if name not in stepped][-1]
    lines = [
        (name, (inspect.getdoc(mode) or "").partition("\n")[0]) for name, mode in modes.items()
    ]
    epilog = [
        "modes:",
        *(f"  {name:{width}}  {line}" for name, line in lines),
        "",
        "examples:",
        f"  {command} --config={file}:smoke",
        f"  {command} --config.optim.learning_rate=1e-3 --workdir=runs/fast",
        f"  {command} --mode={last} --workdir=runs/fast",
        "",
        "exit status:",
        *(f"  {status:<{max(width, 3)}}  {meaning}" for status, meaning in STATUSES.items()),
    ]
    parser = Parser(
        usage=f"{command} [--config=FILE.py[:VARIANT]] [--config.KEY=VALUE ...]\n"
        f"       [--workdir=DIR] [--mode={'|'.join(modes)}]"
        f"{' [--step=N]' if stepped else ''}{' [--profile]' if profiled else ''}\n"
        "       [--distributed [--coordinator=HOST:PORT --processes=N --process=I]]",
        description=description,
        epilog="\n".join(epilog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="FILE.py[:VARIANT]",
        help=f"the settings (default: {file}; {' and '.join(list(modes)[1:])} take those of the "
        "run itself); --config.KEY=VALUE changes one of them, e.g. --config.train.steps=100",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="folder of the run (default: runs/FILE or runs/FILE-VARIANT)",
    )
    parser.add_argument(
        "--mode", default=next(iter(modes)), help="what to do (default: %(default)s)"
    )
    if stepped:
        parser.add_argument(
            "--step", metavar="N", help=f"which step; for --mode={' and '.join(stepped)}"
        )
    if profiled:
        parser.add_argument(
            "--profile",
            action="store_true",
            help="trace a few steps, and show their time by component and their memory; for "
            f"--mode={' and '.join(profiled)}",
        )
    distributed.add_flags(parser)
    return parser


def _takes(mode: Mode, argument: str) -> bool:
    return argument in inspect.signature(mode).parameters


def _read_arguments(
    parser: Parser, modes: Mapping[str, Mode], default_config: Path, arguments: Sequence[str]
) -> tuple[str, ConfigDict, Path, dict[str, Any], dict[str, Any] | None]:
    """Gives mode, config, folder, further arguments of the mode, and the place among processes."""
    assignments = [text for text in arguments if text.startswith("--config.")]
    flags, others = parser.parse_known_args([a for a in arguments if a not in assignments])
    overrides = dict(map(_split_assignment, assignments))
    if flags.mode not in modes:
        raise UserError(
            f"--mode: unknown mode {flags.mode!r}; the nearest is {nearest(flags.mode, modes)} "
            f"(of {', '.join(modes)})"
        )
    further: dict[str, Any] = _checked_step(getattr(flags, "step", None), flags.mode, modes)
    if getattr(flags, "profile", False):
        if not _takes(modes[flags.mode], "profile"):
            raise UserError(f"--profile: --mode={flags.mode} makes no steps to profile")
        further["profile"] = True
    reads_run = flags.mode != next(iter(modes))
    place = distributed.read_flags(flags, trains=not reads_run)
    if place is not None and further.get("profile"):
        raise UserError("--profile: for a single process, without --distributed")
    file, variant = split_variant(str(default_config) if flags.config is None else flags.config)
    workdir = _checked_workdir(flags.workdir, file, variant, reads_run)
    if reads_run and flags.config is None:
        source, config = workdir / "config.json", recorded_config(workdir / "config.json")
    else:
        source, config = file, call_get_config(file, variant)
    _refuse_others(others, config)
    override(config, overrides, str(source))
    if not reads_run:
        _make_writable(workdir)
    return flags.mode, config.lock(), workdir, further, place


def _checked_step(given: str | None, mode: str, modes: Mapping[str, Mode]) -> dict[str, int]:
    """Gives the argument `step` of a mode that takes it."""
    if not _takes(modes[mode], "step"):
        if given is not None:
            raise UserError(f"--step: --mode={mode} takes none")
        return {}
    if given is None or not given.isdecimal():
        raise UserError(f"--step: --mode={mode} needs the number of a step, got {given!r}")
    return {"step": int(given)}


def _refuse_others(others: Sequence[str], config: ConfigDict) -> None:
    """Refuses what is neither a flag nor a config override."""
    if not others:
        return
    name = others[0].partition("=")[0]
    if not name.startswith("-"):
        raise UserError(
            f"unexpected argument {others[0]!r}; values are written --flag=VALUE, without a space"
        )
    known = [
        "--config",
        "--workdir",
        "--mode",
        "--step",
        "--profile",
        *distributed.FLAGS,
        "--help",
        *(f"--config.{k}" for k in fields_of(config)),
    ]
    raise UserError(f"unknown flag {name}; the nearest is {nearest(name, known)}")


def _split_assignment(argument: str) -> tuple[str, str]:
    flag, equals, value = argument.partition("=")
    if not equals:
        raise UserError(f"{flag}: no value given; write {flag}=VALUE, without a space")
    return flag.removeprefix("--config."), value


def _call(
    mode: Mode, config: ConfigDict, workdir: Path, further: Mapping[str, Any], *, alone: bool
) -> int:
    # Brings in JAX, which the checks above do not wait for.
    from common.train import Preempted, use_cache

    # What comes from the cache may have other scopes' names, which a profile shows; and where only
    # some of several processes find a program there, the others may wait for them to compile it.
    if alone and not further.get("profile"):
        use_cache()
    try:
        mode(config, workdir, **further)
    except Preempted as stop:
        print(stop)
        return stop.exit_code
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        print("error:", lack_of_memory(error, config), file=sys.stderr)
        return 1
    return 0


def _checked_workdir(given: str | None, file: Path, variant: str, reads_run: bool) -> Path:
    """Gives the folder of the run; a mode that reads a run needs one that holds it."""
    if given == "":
        raise UserError("--workdir: expected a folder, got nothing")
    name = f"{file.stem}-{variant}" if variant else file.stem
    workdir = Path(given or Path("runs", re.sub(r"[^\w.=+-]+", "-", name)))
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir: {str(workdir)!r} is a file; expected a folder")
    if reads_run and not (workdir / "config.json").is_file():
        raise UserError(f"--workdir: {str(workdir)!r} holds no run (no config.json); train first")
    return workdir


def _make_writable(workdir: Path) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir: cannot make {str(workdir)!r}: {error.strerror}") from error
    if not os.access(workdir, os.W_OK | os.X_OK):
        raise UserError(f"--workdir: {str(workdir)!r} is not writable")
