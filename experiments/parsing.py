"""What the command lines share: a parser and an end that tell mistakes in one line."""

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

from common.errors import UserError


class HelpShown(Exception):
    """Ends the reading of the command line after --help."""


class Parser(argparse.ArgumentParser):
    """Raises instead of printing the usage and leaving the process."""

    def error(self, message: str) -> NoReturn:
        """Raises what is wrong."""
        raise UserError(message.removeprefix("argument "))

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Raises `HelpShown`."""
        raise HelpShown


def status_of(work: Callable[[], int]) -> int:
    """Does what a command line asks for; returns its status, or that of a mistake or Ctrl-C."""
    try:
        return work()
    except UserError as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except HelpShown:
        return 0


def nearest(word: str, choices: Iterable[str]) -> str:
    """Gives the choice most like the word; the empty string where there is none."""
    return next(iter(difflib.get_close_matches(word, list(choices), n=1, cutoff=0.0)), "")
