"""Which runs tell how vision had better enter a language model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.comparisons.members import Member

CONFIG = Path(__file__).parents[1] / "configs" / "injection.py"
TASK = "sort_of_clevr"

MECHANISMS = {
    "projection (LLaVA)": "projection",
    "projection and spatial tokens (LLaVA-SP)": "spatial_projection",
    "Q-Former": "qformer",
    "Perceiver resampler": "perceiver",
    "slots": "slots",
    "gated cross-attention": "cross",
    "Perceiver and gated cross-attention (Flamingo)": "flamingo",
    "cross-attention layers (Mllama)": "mllama",
    "disentangled attention": "disentangled",
    "FiLM": "film",
    "FiLM of three pathways": "pathways",
    "FiLM-Ensemble": "film_ensemble",
}
"""Choices of the config for each mechanism of the tables."""

CONTROLS = {
    "question alone": "cross,blank=image",
    "image alone": "cross,blank=question",
}
"""Gated cross-attention that is not shown the image or the question."""

LAYERS = ("early", "middle", "late", "every_2", "every", "first", "second", "third", "fourth")
OWN_LAYERS = "every"
"""Those that the studied mechanisms stand before of their own: the runs of their part serve."""

STUDIED = {"gated cross-attention": "cross", "FiLM": "film"}
"""Mechanisms that are put before several choices of layers."""


def members(seeds: Sequence[int], quick: Mapping[str, Any]) -> list[Member]:
    """Returns all runs, the first seed's before the second's; layers are studied with the first.

    A run that two parts of the comparison want is one of the mechanisms.

    Args:
        seeds: of parameters and data.
        quick: fields of all runs, to make them shorter.
    """
    found = []
    for seed in seeds:
        for part, models in (("mechanisms", MECHANISMS), ("controls", CONTROLS)):
            for model, choices in models.items():
                found.append(Member(part, TASK, model, seed, choices, quick, CONFIG))
    for model, choices in STUDIED.items():
        for layers in (x for x in LAYERS if x != OWN_LAYERS):
            name, own = f"{model} {layers}", f"{choices},layers={layers}"
            found.append(Member("layers", TASK, name, seeds[0], own, quick, CONFIG))
    return found
