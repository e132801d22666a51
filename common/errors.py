"""The one exception type for mistakes that a user can mend."""


class UserError(Exception):
    """Reports a mistake of the user's in one line: what is wrong, where, and what was expected.

    The command line prints the message without a traceback and exits with status 2.
    """


class DataError(UserError):
    """A file of data that cannot be used; the message names file, record and what was expected."""
