"""A model of pairs taken apart, on one page: ablations, branches, probes, FiLM, gradients, maps."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from alcnet import Reading
from common.analysis import Page, ProbeScore
from common.array_types import PyTree
from common.data.pairs import TokenPairs
from common.data.pipeline import evaluation_batches
from common.train import restore_params
from experiments.analyses import (
    entailment_branches,
    entailment_film,
    entailment_gradients,
    entailment_maps,
)
from experiments.reports.pair_answers import held_out
from experiments.reports.pair_baselines import score_answers
from experiments.reports.wording import interval, share

MAX_PAIRS = 1_000
"""Pairs of the held-out set that are looked at, at most."""
MAX_TRAINING_PAIRS = 2_500
"""Pairs of the training set that probes are fitted to, at most."""
MAP_PAIRS = 128
"""Pairs whose maps are kept."""


@dataclasses.dataclass(frozen=True)
class PairSubject:
    """A trained model with what it makes of the held-out pairs.

    Attributes:
        config: settings of the run.
        workdir: folder of the run.
        step: at which the parameters are those of the run.
        task: model and data.
        params: parameters that are looked at.
        initial: parameters at the beginning of training.
        split: name of the held-out pairs.
        source: the pairs.
        features: of the branches by name, (n, d).
        modulations: (gamma, beta) of each block, (n, c) each.
        logits: (n, 2).
        labels: (n,).
        decide: gives the compiled `Decision` on a batch.
    """

    config: ConfigDict
    workdir: Path
    step: int
    task: Any
    params: PyTree
    initial: PyTree
    split: str
    source: TokenPairs
    features: Mapping[str, np.ndarray]
    modulations: tuple[tuple[np.ndarray, np.ndarray], ...]
    logits: np.ndarray
    labels: np.ndarray
    decide: Callable[[PyTree, Any], Any]

    def modulated(self, params: PyTree) -> Any:
        """Returns gamma and beta of every block for each pair, with other parameters."""
        size = self.config.train.eval_batch_size
        return decisions(self.decide, params, self.source, size).modulations

    def trained_features(self) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        """Returns the features of training pairs by branch, and their labels."""
        source = self.task.train_source
        source = source.first(min(len(source), MAX_TRAINING_PAIRS))
        found = decisions(self.decide, self.params, source, self.config.train.eval_batch_size)
        return found.features, np.asarray(source.pairs.labels)

    @functools.cached_property
    def probes(self) -> dict[str, ProbeScore]:
        """The cross-validated linear probes on all combinations of branches."""
        return entailment_branches.probe_scores(self.features, self.labels)

    @functools.cached_property
    def statistics(self) -> np.ndarray | None:
        """The statistics (n, k) of the held-out pairs; None where the model takes none."""
        found = self.read(self.params, len(self.source))[0].statistics
        return None if found is None else np.asarray(found, np.float64)

    def read(self, params: PyTree, count: int = MAP_PAIRS) -> tuple[Reading, np.ndarray]:
        """Returns what the branches read of the first pairs, and the labels of these."""
        batch = self.source.__getitems__(np.arange(min(count, len(self.source))))
        return self._read(jax.device_get(params), self.task.inputs(batch)), batch["label"]

    @functools.cached_property
    def _read(self) -> Callable[[PyTree, Any], Reading]:
        def read(params: PyTree, inputs: Any) -> Reading:
            variables = {"params": self.task.model_params(params)}
            return self.task.model.apply(variables, **inputs, method="read")[0]

        return jax.jit(read)


def decisions(
    decide: Callable[[PyTree, Any], Any], params: PyTree, source: TokenPairs, batch_size: int
) -> Any:
    """Returns the `Decision` on every pair of a source, its arrays NumPy's."""
    params = jax.device_get(params)  # wherever they come from, compiled once
    parts = []
    for batch in evaluation_batches(source, batch_size):
        mask = batch.pop("mask")
        found = decide(params, batch)
        parts.append(jax.tree.map(lambda x, m=mask: np.asarray(x, np.float32)[m], found))
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def open_subject(config: ConfigDict, workdir: Path, task: Any) -> PairSubject:
    """Reads the run in `workdir` and applies its model to the held-out pairs."""
    step, params = restore_params(task, config, workdir)
    split, source = held_out(task)
    if len(source) > MAX_PAIRS:
        source = source.first(MAX_PAIRS)
    initial_key, _ = jax.random.split(jax.random.key(config.seed))
    initial = jax.jit(task.init)(initial_key)
    decide = jax.jit(lambda params, batch: task.decide(params, batch))
    found = decisions(decide, params, source, config.train.eval_batch_size)
    return PairSubject(
        config, workdir, step, task, params, initial, split, source,
        found.features, found.modulations, np.asarray(found.logits),
        np.asarray(source.pairs.labels), decide,
    )  # fmt: skip


def write_analysis(
    config: ConfigDict,
    workdir: Path,
    task: Any,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Writes workdir/analysis/analysis.html with its figures beside it; returns the page's path.

    What the model has none of is left out.
    """
    subject = open_subject(config, workdir, task)
    page = Page(f"Entailment, taken apart: {', '.join(config.model.branches)}")
    score = score_answers(subject.logits.argmax(1), subject.labels)
    page.lead(
        f"After {subject.step:,} steps the model answers {share(score.value)} of "
        f"{len(subject.labels)} {subject.split} pairs rightly (95 % interval {interval(score)})."
    )
    started = time.perf_counter()
    for name, add in SECTIONS.items():
        tell(f"{time.perf_counter() - started:4.0f} s  {name}")
        add(page, subject)
    page.details("All settings", json.dumps(config.to_dict(), indent=2, default=str))
    return page.write(workdir / "analysis" / "analysis.html")


SECTIONS: dict[str, Callable[[Page, PairSubject], None]] = {
    "ablations": entailment_branches.add_ablations,
    "dependence": entailment_branches.add_dependence,
    "variance": entailment_branches.add_variance,
    "probes": entailment_branches.add_probes,
    "film": entailment_film.add_film,
    "length": entailment_branches.add_length,
    "gradients": entailment_gradients.add_flow,
    "chain rule": entailment_gradients.add_chain_rule,
    "heat maps": entailment_maps.add_heat_maps,
    "patch": entailment_maps.add_patch,
    "discussion": entailment_branches.add_discussion,
}
"""What the page consists of, in order."""
