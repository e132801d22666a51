"""One run of a comparison, whatever it compares."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.cli import load_config

MakeTask = Callable[[Any], Any]
"""Builds the task of a config; a function of a module, that another process can import."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a comparison.

    Attributes:
        part: which question of the comparison it belongs to.
        task: what is learned.
        model: the model's name in the tables.
        seed: of parameters and data.
        choices: after the colon of the config.
        overrides: fields that differ, by dotted key.
        file: of the config.
    """

    part: str
    task: str
    model: str
    seed: int
    choices: str
    overrides: Mapping[str, Any]
    file: Path

    @property
    def folder(self) -> str:
        """Returns the run's folder in that of the comparison."""
        words = f"{self.part} {self.task} {self.model}".replace("+", "and").replace(",", "")
        words = words.replace("(", "").replace(")", "")
        return f"{words.replace(' ', '_')}-{self.seed}"

    def config(self) -> ConfigDict:
        """Returns the run's config."""
        seeds = {"seed": self.seed, "data.seed": self.seed}
        return load_config(f"{self.file}:{self.choices}", {**self.overrides, **seeds})
