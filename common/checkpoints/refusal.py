"""How the readers of this package say what is wrong with a file."""

from typing import Any


class Refusal(Exception):
    """Says what is wrong with a file; who opened the file adds its name."""


def shown(text: Any) -> str:
    """Returns text that a file gave in printable letters, at most 80 of them."""
    plain = ascii(text[:90])[1:-1] if isinstance(text, str) else type(text).__name__
    return plain if len(plain) <= 80 else plain[:77] + "..."
