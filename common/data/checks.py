"""Checks of settings."""

from typing import Any

import numpy as np

from common.errors import UserError


def require_integer(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raises UserError unless the setting of that name is an integer within its bounds."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        wanted = f"{least} or more" if most is None else f"{least} to {most}"
        raise UserError(f"data.{name} is {value!r}; expected an integer, {wanted}")
