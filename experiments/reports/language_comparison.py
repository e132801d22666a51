"""The page that compares language models: with and without a convolution before attention."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.analysis import Page
from experiments.comparisons.language import CONVOLVED, LEAKY, MODELS, ONE, SEQUENCES, TWO
from experiments.comparisons.members import Member
from experiments.comparisons.results import (
    Comparison,
    Result,
    mean_score,
    of,
    read_results,
    spread,
)
from experiments.reports import language_mechanism as mechanism
from experiments.reports.comparison import add_facts
from experiments.reports.wording import duration
from experiments.tasks.language import make_task

NO_TEXT = "This comparison has no runs on text yet."


def write_page(chosen: Sequence[Member], out: Path, kept: Path | None = None) -> Path:
    """Writes out/language_comparison.html from the finished runs of a comparison."""
    results = read_results(chosen, out, kept)
    runs = Comparison(results, out, make_task)
    page = Page("Does a short causal convolution replace attention layers?")
    add_answer(page, results)
    add_sequences(page, results)
    add_larger(page, results)
    mechanism.add_leak(page, runs)
    mechanism.add_heads(page, runs)
    add_text(page, results)
    mechanism.add_positions(page, runs)
    mechanism.add_taps(page, runs)
    mechanism.add_long(page, runs)
    add_facts(page, results)
    return page.write(out / "language_comparison.html")


def add_answer(page: Page, results: Sequence[Result]) -> None:
    """Adds the answer that the numbers give, and what they do not show."""
    parts = []
    for task in SEQUENCES:
        one, two, conv = (_mean(results, "sequences", task, m) for m in (ONE, TWO, CONVOLVED))
        parts.append(f"{conv:.3f} against {one:.3f} with one and {two:.3f} with two layers: {task}")
    page.lead(
        "Accuracy of one attention layer behind a causal convolution of 5 taps, against attention "
        f"alone. {'; '.join(parts)}."
    )
    text = {m: _mean(results, "text", "text", m, "loss") for m in MODELS}
    if any(np.isnan([text[m] for m in (ONE, TWO, CONVOLVED)])):
        page.paragraph(NO_TEXT)
        return
    honest = {m: x for m, x in text.items() if m != LEAKY and not np.isnan(x)}
    best = min(honest, key=lambda m: honest[m])
    page.paragraph(
        f"On text the causal convolution reaches {text[CONVOLVED]:.3f} nats a token, one layer of "
        f"attention alone {text[ONE]:.3f}, two {text[TWO]:.3f}; the lowest of the models that do "
        f"not look ahead is {best}, {honest[best]:.3f}."
    )
    page.paragraph(
        "Shown is what such small models learn in so many steps, with one recipe that is tuned for "
        "none of them. Not shown is anything about models of usual size, about more text, or about "
        "what more training would bring."
    )


def add_sequences(page: Page, results: Sequence[Result]) -> None:
    """Adds the table of the made-up tasks."""
    page.section("Made-up sequences")
    page.paragraph(
        "repeats: distinct random tokens, 16 to 32 of them, again and again. recall: 8 pairs of a "
        "key and a value, then keys whose values are asked for. copying: 8 tokens, 16 to 48 random "
        "ones, a mark, and the 8 again. Accuracy on the predictions that the context determines, "
        "mean and standard deviation over seeds. Guessing a value of the context gives .125 in "
        "recall. Tokens a second are those of training, whatever else ran."
    )
    rows = []
    for model in MODELS:
        found = [r for task in SEQUENCES for r in of(results, "sequences", task, model)]
        if found:
            rows.append(
                (model, f"{found[0].parameters:,}", *_accuracies(results, model), *_cost(found))
            )
    header = ("model", "parameters, repeats", *SEQUENCES, "tokens/s", "wall time of a run")
    page.table(header, rows)


def _accuracies(results: Sequence[Result], model: str) -> list[str]:
    return [
        spread([r.scores["accuracy"] for r in of(results, "sequences", task, model)])
        for task in SEQUENCES
    ]


def _cost(found: Sequence[Result]) -> tuple[str, str]:
    """Returns tokens a second in training and the wall time, medians over runs."""
    speeds = [r.steps_per_second * r.member.config().train.batch_size * _context(r) for r in found]
    seconds = statistics.median(r.seconds for r in found)
    return f"{statistics.median(speeds):,.0f}", duration(seconds)


def _context(result: Result) -> int:
    """Returns how many tokens a training example has."""
    data = result.member.config().data
    if "context" in data:
        return data.context
    if "half_length" in data:
        return 2 * data.half_length - 1
    return 2 * data.copied + data.gap


def add_larger(page: Page, results: Sequence[Result]) -> None:
    """Adds larger vocabularies and lengths."""
    models = list(dict.fromkeys(r.member.model for r in results if r.member.part == "large"))
    if not models:
        return
    page.section("Larger vocabularies and lengths")
    page.paragraph(
        "repeats: a vocabulary of 512, 32 to 64 tokens again and again. recall: 16 pairs of 512 "
        "keys and 512 values in 128 tokens. Same models, steps and recipe."
    )
    rows = [
        (
            model,
            *(
                spread([r.scores["accuracy"] for r in of(results, "large", task, model)])
                for task in ("repeats", "recall")
            ),
        )
        for model in models
    ]
    page.table(("model", "repeats", "recall"), rows)


def add_text(page: Page, results: Sequence[Result]) -> None:
    """Adds the table of the runs on text."""
    rows = []
    for model in MODELS:
        if found := of(results, "text", "text", model):
            cells = [
                spread([r.scores[name] for r in found], digits)
                for name, digits in (("loss", 3), ("perplexity", 1), ("word_perplexity", 0),
                                     ("bits_per_byte", 3), ("accuracy", 3))
            ]  # fmt: skip
            rows.append((model, f"{found[0].parameters:,}", *cells, *_cost(found)))
    if not rows:
        return
    first = of(results, "text", "text")[0]
    data, scores = first.member.config().data, first.scores
    page.section("Text")
    source = "made-up articles" if data.kind == "made_up" else str(Path(data.path).name)
    page.paragraph(
        f"Text: {source}; tokens: {data.tokenizer}, trained on its training split. Scored on the "
        f"test split of {scores['words']:,} words and {scores['bytes']:,} bytes, "
        f"{scores['tokens']:,} tokens, context {scores['context']}, stride {scores['stride']}. "
        "Mean and standard deviation over seeds. The model that looks ahead stands here to show "
        "what its numbers are worth: see who reads the answer."
    )
    header = ("model", "parameters", "loss, nats/token", "perplexity/token", "perplexity/word")
    header += ("bits/byte", "accuracy", "tokens/s", "wall time of a run")
    page.table(header, rows)


def _mean(
    results: Sequence[Result], part: str, task: str, model: str, name: str = "accuracy"
) -> float:
    return mean_score(of(results, part, task, model), name)
