"""The one exception type for mistakes that a user can mend, and how it shows what a file says."""

from typing import Any


class UserError(Exception):
    """Reports a mistake of the user's in one line: what is wrong, where, and what was expected.

    The command line prints the message without a traceback and exits with status 2.
    """


class DataError(UserError):
    """A file of data that cannot be used; the message names file, record and what was expected."""


def shown(text: Any) -> str:
    """Returns text that a file gave in printable letters, at most 80 of them."""
    plain = ascii(text[:90])[1:-1] if isinstance(text, str) else type(text).__name__
    return plain if len(plain) <= 80 else plain[:77] + "..."
