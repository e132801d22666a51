"""Which runs tell whether a short causal convolution replaces attention layers."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from experiments.cli import load_config

CONFIG = Path(__file__).parents[1] / "configs" / "language.py"

MODELS = {
    "attention, 1 layer": "model=attn_attn,layers=1",
    "attention, 2 layers": "model=attn_attn,layers=2",
    "attention, 4 layers": "model=attn_attn,layers=4",
    "causal conv + 1 layer": "model=conv_attn",
    "x + causal conv + 1 layer": "model=hybrid",
    "conv on keys": "model=conv_keys",
    "conv on queries, keys, values": "model=conv_qkv",
    "smeared keys": "model=smeared_keys",
    "symmetric conv + 1 layer (leaks)": "model=leaky",
}
"""Choices of the config for each model of the tables."""

ONE, TWO = "attention, 1 layer", "attention, 2 layers"
LEAKY = "symmetric conv + 1 layer (leaks)"
CONVOLVED = "causal conv + 1 layer"

TEXT_MODELS = tuple(m for m in MODELS if m not in ("smeared keys", "conv on queries, keys, values"))
"""Models that are trained on text too, which takes several times as long."""

SEQUENCES = {"repeats": "data=repeats", "recall": "data=recall", "copying": "data=copying"}

LARGE: dict[str, dict[str, Any]] = {
    "repeats": {"data.vocabulary": 512, "data.half_length": 64, "data.shortest": 32},
    "recall": {"data.keys": 512, "data.values": 512, "data.pairs": 16, "data.queries": 16}
    | {"data.context": 127},
}
"""Larger vocabularies and lengths, by task."""
LARGE_MODELS = (ONE, TWO, CONVOLVED, "conv on keys")

TAPS = tuple(range(1, 10))
TEXT_TAPS = (1, 3, 5, 7, 9)


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of the comparison.

    Attributes:
        part: which question it belongs to: 'sequences', 'large', 'text', 'taps' or 'taps on text'.
        task: what is learned.
        model: the model's name in the tables.
        seed: of parameters and data.
        choices: after the colon of the config.
        overrides: fields that differ, by dotted key.
    """

    part: str
    task: str
    model: str
    seed: int
    choices: str
    overrides: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """Returns the run's folder in that of the comparison."""
        words = f"{self.part} {self.task} {self.model}".replace("+", "and").replace(",", "")
        words = words.replace("(", "").replace(")", "")
        return f"{words.replace(' ', '_')}-{self.seed}"

    def config(self) -> ConfigDict:
        """Returns the run's config."""
        seeds = {"seed": self.seed, "data.seed": self.seed}
        return load_config(f"{CONFIG}:{self.choices}", {**self.overrides, **seeds})


def members(
    seeds: Sequence[int], text: Mapping[str, Any], quick: Mapping[str, Any]
) -> list[Member]:
    """Returns all runs, the first seed's before the second's.

    Args:
        seeds: of parameters and data.
        text: fields of the runs on text, such as data.path.
        quick: fields of all runs, to make them shorter.
    """
    kind = f"data={text['data.kind']}"
    fields = {key: value for key, value in text.items() if key != "data.kind"}
    fields |= quick
    found = []
    for seed in seeds:
        for task, data in SEQUENCES.items():
            for model, choices in MODELS.items():
                member = Member("sequences", task, model, seed, f"{choices},{data}", quick)
                found.append(member)
        for model in TEXT_MODELS:
            found.append(Member("text", "text", model, seed, f"{MODELS[model]},{kind}", fields))
        for task, sizes in LARGE.items():
            for model in LARGE_MODELS:
                choices = f"{MODELS[model]},{SEQUENCES[task]}"
                found.append(Member("large", task, model, seed, choices, {**sizes, **quick}))
    for task, data, own, lengths in (
        ("repeats", "data=repeats", quick, TAPS),
        ("text", kind, fields, TEXT_TAPS),
    ):
        for taps in lengths:
            choices = f"{MODELS[CONVOLVED]},{data}"
            overrides = {**own, "model.taps": taps}
            found.append(Member("taps", task, f"{taps} taps", seeds[0], choices, overrides))
    return found
