"""Which runs tell whether a short causal convolution replaces attention layers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.comparisons.members import Member

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

    def run(part: str, task: str, model: str, seed: int, choices: str, own: Mapping) -> Member:
        return Member(part, task, model, seed, choices, own, CONFIG)

    found = []
    for seed in seeds:
        for task, data in SEQUENCES.items():
            for model, choices in MODELS.items():
                found.append(run("sequences", task, model, seed, f"{choices},{data}", quick))
        for model in TEXT_MODELS:
            found.append(run("text", "text", model, seed, f"{MODELS[model]},{kind}", fields))
        for task, sizes in LARGE.items():
            for model in LARGE_MODELS:
                choices = f"{MODELS[model]},{SEQUENCES[task]}"
                found.append(run("large", task, model, seed, choices, {**sizes, **quick}))
    for task, data, own, lengths in (
        ("repeats", "data=repeats", quick, TAPS),
        ("text", kind, fields, TEXT_TAPS),
    ):
        for taps in lengths:
            choices = f"{MODELS[CONVOLVED]},{data}"
            overrides = {**own, "model.taps": taps}
            found.append(run("taps", task, f"{taps} taps", seeds[0], choices, overrides))
    return found
