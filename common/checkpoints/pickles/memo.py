"""The values that a pickle keeps by number, to be recalled later in the file."""

from typing import Any

PLACE = 16
ENTRY = 112
"""Bytes that a value may take in a row and in a dict, with room to grow."""

NOTHING = object()
"""What the memo has where nothing was kept."""


class Memo:
    """Values by number. Numbers that follow each other cost little, and any others no more."""

    def __init__(self) -> None:
        self._row: list[Any] = []
        self._others: dict[int, Any] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def keep(self, index: int, value: Any) -> int:
        """Keeps a value; returns how many bytes that may take."""
        self._count += self.get(index) is NOTHING
        if index < len(self._row):
            self._row[index] = value
            return 0
        if index in (len(self._row), len(self._row) + 1) and not self._others:
            self._row += [NOTHING] * (index - len(self._row)) + [value]
            return 2 * PLACE
        self._others[index] = value
        return ENTRY

    def get(self, index: int) -> Any:
        """Returns a value, or `NOTHING`."""
        if 0 <= index < len(self._row):
            return self._row[index]
        return self._others.get(index, NOTHING)
