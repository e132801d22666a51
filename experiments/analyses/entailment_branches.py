"""What the branches of a model of pairs hold: ablations, dependence, variance, probes."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from alcnet import statistic_names
from common.analysis import (
    ProbeScore,
    canonical_correlations,
    comparison,
    feature_variance,
    linear_probe,
    logistic_regression,
    norm_correlation,
    rv_coefficient,
    svcca,
)
from common.analysis.page import Page
from common.errors import UserError
from common.train import wilson_interval
from experiments.reports import rte_table
from experiments.reports.wording import share

PENALTY = 1e-2
"""Of the probes, whose features are many beside a few hundred pairs."""
COMPONENTS = 0.5
"""Share of either side's variance whose principal components are correlated."""
NAMES = {"cnn": "CNN", "cls": "CLS", "stats": "Stats"}


def add_ablations(page: Page, subject: Any) -> None:
    """Adds the table of the runs beside this one, as far as there are such, and what branches do.

    Each branch's features are also replaced by their mean over the pairs, without training again.
    """
    page.section("Ablations")
    try:
        runs = rte_table.read_pair_runs(subject.workdir.parent)
        if len({key[0] for key in runs}) < 2:
            raise UserError("one model alone")
    except UserError as reason:
        page.paragraph(
            "Models trained without parts are runs of their own; there are none to compare beside "
            f"this one ({reason}). Below, features of this model replaced by their mean."
        )
    else:
        page.paragraph(rte_table.verdict(runs))
        page.table(
            ("model", "seeds", "accuracy", "against the plain encoder", "against the whole model"),
            rte_table.rows(runs),
        )
    rows = _held_at_mean(subject)
    if rows:
        page.paragraph(
            "What the trained head loses when a branch tells it nothing: its features are held at "
            "their mean over the pairs. No parameter is trained again, so that this says what the "
            "model uses, not what it needs."
        )
        page.table(("held at their mean", "accuracy", "answers changed"), rows)


def _held_at_mean(subject: Any) -> list[tuple[str, str, str]]:
    names = _read(subject)
    if subject.config.model.fusion != "concat" or len(names) < 2:
        return []
    head = subject.params["fusion"]["logits"]
    kernel, bias = np.asarray(head["kernel"]), np.asarray(head["bias"])
    usual = subject.logits.argmax(1)
    rows = []
    for count in (1, 2):
        for gone in itertools.combinations(names, count):
            if len(gone) == len(names):
                continue
            parts = [
                np.broadcast_to(x.mean(0), x.shape) if name in gone else x
                for name, x in ((name, subject.features[name]) for name in names)
            ]
            answers = (np.concatenate(parts, 1) @ kernel + bias).argmax(1)
            rows.append(
                (
                    " and ".join(NAMES[name] for name in gone),
                    share((answers == subject.labels).mean()),
                    share((answers != usual).mean()),
                )
            )
    return rows


def _read(subject: Any) -> list[str]:
    """Returns the branches whose features the head reads, in its order."""
    return [name for name in ("cls", "cnn", "stats") if name in subject.config.model.branches]


def add_dependence(page: Page, subject: Any) -> None:
    """Adds how alike the features of two branches are."""
    pairs = [p for p in (("cnn", "cls"), ("cnn", "stats"), ("cls", "stats"))]
    rows = []
    for a, b in pairs:
        if a in subject.features and b in subject.features:
            x, y = subject.features[a], subject.features[b]
            shuffled = y[np.random.default_rng(0).permutation(len(y))]
            for name, measure in (
                ("RV", rv_coefficient),
                ("correlation of norms", norm_correlation),
                ("mean canonical correlation", _mean_canonical),
                (f"the same of {share(COMPONENTS, 0)} of the variance", _of_components),
            ):
                values = [_or_nan(measure, x, z) for z in (y, shuffled)]
                rows.append((f"{name} ({NAMES[a]}, {NAMES[b]})", *(f"{v:.4f}" for v in values)))
    if not rows:
        return
    page.section("Dependence between branches")
    page.paragraph(
        "The measures of the seed, and beside each its value when the pairs of one side are "
        "shuffled, so that nothing is shared: with a few hundred pairs and so many features the "
        "canonical correlations are far from zero by chance alone, and 1 with as many features as "
        "pairs. So they are also taken of the fewest principal components that hold half of the "
        "variance of either side (SVCCA)."
    )
    page.table(("measure", "value", "shuffled"), rows)


def _mean_canonical(x: np.ndarray, y: np.ndarray) -> float:
    return float(canonical_correlations(x, y).mean())


def _of_components(x: np.ndarray, y: np.ndarray) -> float:
    return svcca(x, y, COMPONENTS)


def _or_nan(measure: Any, x: np.ndarray, y: np.ndarray) -> float:
    """Returns the measure, or nan where the features do not vary."""
    try:
        return float(measure(x, y))
    except ValueError:
        return float("nan")


def effective_rank(features: np.ndarray) -> float:
    """Returns exp of the entropy of the shares of variance of the principal components.

    1 where one direction holds all variance, d where all d hold the same (Roy and Vetterli 2007,
    on squared singular values); 0 where nothing varies.
    """
    sizes = np.linalg.svd(features - features.mean(0), compute_uv=False) ** 2
    if sizes.sum() <= 1e-24:
        return 0.0
    shares = sizes / sizes.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def add_variance(page: Page, subject: Any) -> None:
    """Adds the variance of the features and how many directions hold it."""
    if not subject.features:
        return
    page.section("Variance of the features")
    page.paragraph(
        "Variance over the pairs, mean of all features of a branch, and the effective rank: how "
        "many directions hold the variance (exp of the entropy of their shares)."
    )
    rows = [
        (
            NAMES[name],
            x.shape[1],
            f"{feature_variance(x).mean():.6f}",
            f"{effective_rank(np.asarray(x, np.float64)):.1f}",
        )
        for name, x in subject.features.items()
    ]
    page.table(("branch", "features", "mean variance", "effective rank"), rows)


def probe_scores(
    features: Any, labels: np.ndarray, score: Callable[[Any], ProbeScore] | None = None
) -> dict[str, ProbeScore]:
    """Returns the accuracy of linear probes on all combinations of branches.

    Args:
        features: (n, d) by branch.
        labels: (n,).
        score: gives the score of a combination, from its branches' names; ten-fold
            cross-validation by default.
    """
    names = [name for name in ("cnn", "cls", "stats") if name in features]

    def cross_validated(chosen: tuple[str, ...]) -> ProbeScore:
        return linear_probe(_joined(features, chosen), labels, penalty=PENALTY)

    return {
        "+".join(NAMES[name] for name in chosen): (score or cross_validated)(chosen)
        for count in range(1, len(names) + 1)
        for chosen in itertools.combinations(names, count)
    }


def _joined(features: Any, chosen: Sequence[str]) -> np.ndarray:
    return np.concatenate([features[name] for name in chosen], 1)


def add_probes(page: Page, subject: Any) -> None:
    """Adds what can be read off the frozen features of the branches."""
    scores = subject.probes
    learned, learned_labels = subject.trained_features()

    def fitted_to_training(chosen: tuple[str, ...]) -> ProbeScore:
        model = logistic_regression(_joined(learned, chosen), learned_labels, PENALTY)
        answers = model.probability(_joined(subject.features, chosen)) > 0.5
        correct = int((answers == (subject.labels == 1)).sum())
        count = len(answers)
        return ProbeScore(correct / count, *wilson_interval(correct, count), correct, count)

    others = probe_scores(subject.features, subject.labels, fitted_to_training)
    majority = float(max(subject.labels.mean(), 1 - subject.labels.mean()))
    page.section("Linear probes")
    page.paragraph(
        "Logistic regressions on frozen features, scored on the held-out pairs with 95 % Wilson "
        f"intervals, where the more frequent class is {share(majority)}. Once fitted to these "
        "pairs, ten-fold cross-validated: what a few hundred new pairs tell. Once fitted to "
        f"{len(learned_labels):,} training pairs, whose features the model was trained to tell "
        "apart: what carries over."
    )
    page.table(
        ("features", "cross-validated", "95 % interval", "from training pairs", "95 % interval"),
        [(name, *_cells(scores[name]), *_cells(others[name])) for name in scores],
    )
    page.figure(
        comparison(
            list(scores), *zip(*(s[:3] for s in scores.values()), strict=True), chance=majority
        ),
        "probes",
        "Accuracy of cross-validated probes on features of branches; dotted, the more frequent "
        "class",
    )


def _cells(score: ProbeScore) -> tuple[str, str]:
    return share(score.accuracy), f"{100 * score.low:.1f} to {share(score.high)}"


def explained_by(x: np.ndarray, columns: np.ndarray) -> float:
    """Returns the mean R2 of lines in x (n,) for columns (n, d); columns that do not vary are 0."""
    centred, deviation = x - x.mean(), columns - columns.mean(0)
    scale = np.sqrt((centred**2).sum() * (deviation**2).sum(0))
    slopes = centred @ deviation
    return float(np.mean(np.where(scale > 0, slopes / np.where(scale > 0, scale, 1), 0.0) ** 2))


def add_length(page: Page, subject: Any) -> None:
    """Adds how far the features follow the length of the text alone."""
    if not subject.features:
        return
    lengths = subject.source.token_counts.astype(float)
    page.section("Dependence on length")
    page.paragraph(
        "The published statistics are nearly a function of the number of tokens. Share of the "
        "variance of each branch's features that a line in the length explains, mean over features."
    )
    rows = [(NAMES[n], f"{explained_by(lengths, x):.3f}") for n, x in subject.features.items()]
    page.table(("branch", "R2 of length"), rows)
    found = subject.statistics
    if found is None:
        return
    model = subject.task.model
    names = statistic_names(model.statistic_layers, subject.task.measured)
    page.paragraph(
        f"The statistics themselves, as the model takes them ({subject.config.model.statistics}); "
        "layers are counted from the last one, -1."
    )
    page.table(
        ("statistic", "R2 of length"),
        [
            (name, f"{explained_by(lengths, column[:, None]):.3f}")
            for name, column in zip(names, found.T, strict=True)
        ],
    )


def add_discussion(page: Page, subject: Any) -> None:
    """Adds what the numbers allow to say, made from them."""
    scores = subject.probes
    page.section("Discussion")
    best = max(scores, key=lambda name: scores[name].accuracy)
    n = len(subject.labels)
    majority = max(subject.labels.mean(), 1 - subject.labels.mean())
    beyond = [name for name, s in scores.items() if s.low > majority]
    page.paragraph(
        f"With {n} pairs one accuracy has an interval of about ±{98 / np.sqrt(n):.0f} points; "
        "differences below that need several seeds and pairs in common, as in the ablations above. "
        f"The best probe reads {best} ({share(scores[best].accuracy)}); "
        + (
            f"beyond the more frequent class are: {', '.join(beyond)}."
            if beyond
            else "none is clearly beyond the more frequent class."
        )
    )
    page.paragraph(
        "Gradients do flow from the CNN into queries and keys of every layer that it reads and "
        "into the values of the layers below the last; that they flow does not mean that they "
        "help. Whether they do is the comparison with the encoder trained without the branch."
    )
