"""What FiLM does in a model of pairs: gamma and beta at the end of training and over it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.analysis import style
from common.analysis.causal_figures import LOOKS
from common.analysis.page import Page
from common.checkpoints import CheckpointReader
from common.train import Workdir, read_records, restore_params
from experiments.analyses.entailment_branches import explained_by
from experiments.tasks.film_scores import BEGINNINGS, film_name


def add_film(page: Page, subject: Any) -> None:
    """Adds what gamma and beta became, and how far they follow the input."""
    if not subject.modulations:
        return
    page.section("FiLM: what the statistics do to the CNN")
    page.paragraph(
        "y = gamma x + beta acts on every channel of every block, and begins as gamma = 1, beta = "
        "0 for all inputs. Below, where training took them: the mean over pairs and channels, the "
        "spread over channels of what is the same for all pairs, and the spread over pairs, which "
        "is the conditioning itself. The last column is the share of their variance over pairs "
        "that the length of the text explains (R2 of a line, mean over channels)."
    )
    lengths = subject.source.token_counts.astype(float)
    rows = []
    for number, (gamma, beta) in enumerate(subject.modulations, 1):
        for name, values in (("gamma", gamma), ("beta", beta)):
            values = np.asarray(values, np.float64)
            rows.append(
                (
                    f"block {number}, {name}",
                    f"{values.mean():.4f}",
                    f"{values.mean(0).std():.4f}",
                    f"{values.std(0).mean():.4f}",
                    f"{explained_by(lengths, values):.2f}",
                )
            )
    page.table(
        ("", "mean", "spread over channels", "spread over pairs", "explained by length"), rows
    )
    add_film_over_training(page, subject)


def add_film_over_training(page: Page, subject: Any) -> None:
    """Adds gamma and beta at every validation, or else at the checkpoints that were kept."""
    series = film_series(read_records(Workdir(subject.workdir).metrics))
    if series:
        page.paragraph(
            "Over training, on the validation pairs, at the beginning and whenever they were "
            "scored: the mean over pairs and channels; the dark band is the spread over pairs, the "
            "light one the spread over channels of what is the same for all pairs."
        )
        page.figure(film_over_training(series), "film", "gamma and beta over the training steps")
    elif len(history := film_history(subject)) > 1:
        page.paragraph(
            "Over training, at the checkpoints that were kept: mean distance of gamma from 1 and "
            "of beta from 0, and their spread over pairs."
        )
        page.table(
            ("step", "|gamma - 1|", "|beta|", "gamma over pairs", "beta over pairs"), history
        )


def film_series(records: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], np.ndarray]:
    """Returns by block, from 1, and side, 'gamma' or 'beta', what a run's record says of it.

    Each is (n, 4): step, mean, spread over channels, spread over pairs; the first row is step 0.
    """
    scored = [record for record in records if record["split"] == "validation"]
    found, number = {}, 1
    while scored and all(film_name(number, "gamma") in record for record in scored):
        for side, begin in BEGINNINGS.items():
            name = film_name(number, side)
            keys = ("step", name, f"{name}_over_channels", f"{name}_over_examples")
            rows = [[record[key] for key in keys] for record in scored]
            found[number, side] = np.array([[0, begin, 0, 0], *rows], float)
        number += 1
    return found


@style.styled
def film_over_training(series: Mapping[tuple[int, str], np.ndarray]) -> Figure:
    """Draws what `film_series` returns: a panel for gamma and one for beta, a line for a block."""
    figure = style.new_figure(3.2)
    for axes, (side, begin) in zip(figure.subplots(1, 2), BEGINNINGS.items(), strict=True):
        blocks = [number for number, name in series if name == side]
        for number in blocks:
            steps, mean, *spreads = series[number, side].T
            colour, line, marker = LOOKS[(number - 1) % len(LOOKS)]
            axes.plot(
                steps, mean, color=colour, linestyle=line, marker=marker, label=f"block {number}"
            )
            for spread, alpha in zip(spreads, (0.12, 0.3), strict=True):
                axes.fill_between(
                    steps, mean - spread, mean + spread, color=colour, alpha=alpha, linewidth=0
                )
        axes.axhline(begin, color=style.GREY, linewidth=1.0, linestyle=":", zorder=0)
        axes.set(xlabel="training step", title=side, xlim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.legend(loc="best")
    return figure


def film_history(subject: Any) -> list[tuple[str, ...]]:
    """Returns, for the beginning and each checkpoint, how far FiLM is from the identity."""
    reader = CheckpointReader(Workdir(subject.workdir).checkpoints, subject.task.metric)
    states = [(0, subject.initial)] + [
        restore_params(subject.task, subject.config, subject.workdir, step)
        for step in sorted(reader.newest_first())
    ]
    rows = []
    for step, params in states:
        pairs = [tuple(map(np.asarray, m)) for m in subject.modulated(params)]
        gammas, betas = (np.concatenate(side, 1) for side in zip(*pairs, strict=True))
        sizes = (np.abs(gammas - 1).mean(), np.abs(betas).mean())
        spreads = (gammas.std(0).mean(), betas.std(0).mean())
        rows.append((f"{step:,}", *(f"{v:.4f}" for v in (*sizes, *spreads))))
    return rows
