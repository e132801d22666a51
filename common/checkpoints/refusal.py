"""How the readers of this package say what is wrong with a file."""


class Refusal(Exception):
    """Says what is wrong with a file; who opened the file adds its name."""
