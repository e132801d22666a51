"""The page that compares language models: with and without a convolution before attention."""

import datetime
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.analysis import (
    Page,
    attention_maps,
    in_context_learning_score,
    kernel_profile,
    loss_by_position,
    offset_profile,
    tap_profiles,
)
from common.analysis.induction import OFFSETS
from common.array_types import PyTree
from common.data.pipeline import Source
from common.data.sequences import AssociativeRecall, GeneratedSequences
from common.data.windows import TokenWindows
from common.train import evaluate, restore_params
from experiments.analyses import language as look
from experiments.comparisons.language import CONVOLVED, LEAKY, MODELS, SEQUENCES, TAPS, Member
from experiments.comparisons.results import Result, mean_score, of, read_results, spread
from experiments.reports.wording import duration
from experiments.tasks.language import LanguageTask, TextWindows, make_task

ONE, TWO = "attention, 1 layer", "attention, 2 layers"
LOOKED_AT = (ONE, TWO, CONVOLVED, "x + causal conv + 1 layer", "conv on keys", LEAKY)
"""Models whose heads are looked at."""
CONTEXTS = (64, 128, 256, 512, 1024, 2048, 4096)
LONG_TOKENS = 2**15
"""Tokens of the test text that long contexts are scored on."""
LONG_EXAMPLES = 64
LEAK_SEQUENCES = 16
NO_TEXT = "This comparison has no runs on text yet."


class Trained(NamedTuple):
    """A trained model with its data.

    Attributes:
        result: what its run reached.
        task: model and data.
        params: parameters of the best checkpoint.
    """

    result: Result
    task: LanguageTask
    params: PyTree


def write_page(chosen: Sequence[Member], out: Path) -> Path:
    """Writes out/language_comparison.html from the finished runs of a comparison."""
    results = read_results(chosen, out)
    page = Page("Does a short causal convolution replace attention layers?")
    add_answer(page, results)
    add_sequences(page, results)
    add_larger(page, results)
    add_leak(page, results, out)
    add_heads(page, results, out)
    add_text(page, results)
    add_positions(page, results, out)
    add_taps(page, results, out)
    add_long(page, results, out)
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
    if all(np.isnan(list(text.values()))):
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


def add_leak(page: Page, results: Sequence[Result], out: Path) -> None:
    """Adds what the models say of prefixes alone."""
    page.section("Who reads the answer")
    page.paragraph(
        "Loss at some places within whole test sequences, and of the same predictions when the "
        "model is given the tokens before them and nothing else. A model that does not look ahead "
        "says the same in both cases. One seed."
    )
    rows = []
    for part, task in (("sequences", "recall"), ("text", "text")):
        for model in MODELS:
            if trained := _trained(results, out, part, task, model):
                found = look.answers(trained.task, trained.params, _test(trained), LEAK_SEQUENCES)
                lengths = look.shown_lengths(found.losses.shape[1], 3)
                whole, alone = look.leak(trained.task, trained.params, found, lengths)
                rows.append((task, model, f"{whole:.3f}", f"{alone:.3f}"))
    page.table(("task", "model", "within whole sequences", "prefixes alone"), rows)


def add_heads(page: Page, results: Sequence[Result], out: Path) -> None:
    """Adds where the heads look on repeats, and how they copy."""
    profiles, rows = {}, []
    maps: dict[str, Any] = {}
    for model in LOOKED_AT:
        trained = _trained(results, out, "sequences", "repeats", model)
        if trained is None:
            continue
        found = look.answers(trained.task, trained.params, _test(trained), 64)
        layers = look.offset_profiles(trained.task, trained.params, found)
        profiles[model] = list(layers.values())[-1]
        if model in (TWO, CONVOLVED):
            weights = look.attention_weights(trained.task, trained.params, found.tokens[:1, :-1])
            maps |= {f"{model}\n{name}": layer[0] for name, layer in weights.items()}
        s = look.head_scores(trained.task, trained.params, found)
        rows.append(
            (model, f"{s.offset:+d}", f"{s.mass:.2f}", f"{s.induction:.2f}",
             f"{s.prefix_matching:.2f}", f"{s.previous_token:.2f}", f"{s.copying:+.2f}",
             f"{s.copying_strength:+.1f}")
        )  # fmt: skip
    if not rows:
        return
    page.section("How: where the heads look")
    page.paragraph(
        "On repeats, the last layer's heads, relative to the last occurrence of the current token. "
        "The textbook's induction head looks at offset +1, at the token that followed it. Behind a "
        "convolution a key holds the tokens before it as well, so that the mass may lie further "
        "right. The table is of the head with the most mass at one offset; several earlier copies "
        "share the mass, which prefix matching adds up. Copying is that of the token that should "
        "come next. One seed."
    )
    page.figure(offset_profile(OFFSETS, profiles), "offsets", "Attention by offset of each model")
    header = ("model", "offset", "mass there", "mass at +1", "prefix matching")
    header += ("previous token, any head", "copying", "copying strength, sd")
    page.table(header, rows)
    page.paragraph("The weights of all heads of two of these models on one sequence of repeats.")
    page.figure(attention_maps(maps), "attention_maps", "Attention maps of two models")


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


def add_positions(page: Page, results: Sequence[Result], out: Path) -> None:
    """Adds the loss on text by the number of tokens to go by, up to 512."""
    losses, rows = {}, []
    for model in (ONE, TWO, CONVOLVED, "x + causal conv + 1 layer"):
        if trained := _trained(results, out, "text", "text", model):
            windows = _windows(trained, 512)
            found = look.answers(trained.task, trained.params, windows, 64, batch=8)
            losses[model] = found.losses
            score = in_context_learning_score(found.losses)
            rows.append((model, f"{score:+.3f}"))
    if not rows:
        return
    page.section("Does more context help?")
    page.paragraph(
        "Loss on 64 windows of 512 test tokens by how many tokens there are to go by; models were "
        "trained with 128. The in-context learning score is the loss at the 500th token less that "
        "at the 50th (Olsson et al. 2022): below 0 where the context helps. One seed."
    )
    page.figure(loss_by_position(losses, marks={"trained to here": 128}), "positions",
                "Loss by position in the context")  # fmt: skip
    page.table(("model", "in-context learning score, nats"), rows)


def add_taps(page: Page, results: Sequence[Result], out: Path) -> None:
    """Adds the sweep of the kernel's length, and the kernels that were learned."""
    rows, learned = [], {}
    for taps in TAPS:
        cells = []
        for task, name in (("repeats", "accuracy"), ("text", "loss")):
            trained = _trained(results, out, "taps", task, f"{taps} taps")
            cells.append("-" if trained is None else f"{trained.result.scores[name]:.3f}")
            if trained is not None and task == "text":
                learned[f"{taps} taps"] = next(iter(look.kernels(trained.params).values()))
        if set(cells) != {"-"}:
            rows.append((taps, *cells))
    if not rows:
        return
    page.section("How long a kernel?")
    page.paragraph(
        "One attention layer behind a causal convolution of 1 to 9 taps: accuracy on repeats, loss "
        "on text. The seed of this study held 3 to be too sharp, 5 right and 7 or more to give a "
        "Gaussian. One seed."
    )
    page.table(("taps", "repeats, accuracy", "text, nats/token"), rows)
    if not learned:
        return
    shares = {name: np.abs(k).mean(1) / np.abs(k).mean(1).sum() for name, k in learned.items()}
    peaks = [f"{name}: {1 - len(s) + int(s.argmax()):+d}" for name, s in shares.items()]
    page.paragraph(
        "The kernels learned on text: each offset's share of the mean size of the weights. It is "
        f"largest at offset {'; '.join(peaks)}."
    )
    page.figure(tap_profiles(learned), "taps", "Mean size of the weights by offset, by taps")
    five = _trained(results, out, "taps", "text", "5 taps")
    if five is not None:
        kernel = next(iter(look.kernels(five.params).values()))
        page.figure(kernel_profile(kernel, title="5 taps, on text"), "kernel", "A learned kernel")
    leaky = _trained(results, out, "text", "text", LEAKY)
    if leaky is not None:
        kernel = next(iter(look.kernels(leaky.params).values()))
        page.paragraph(
            "The symmetric kernel, for comparison: the weights at offsets +1 and +2 are those that "
            "read the answer."
        )
        figure = kernel_profile(kernel, range(-2, 3), title="symmetric, 5 taps, on text")
        page.figure(figure, "leaky_kernel", "The kernel of the model that looks ahead")


def add_long(page: Page, results: Sequence[Result], out: Path) -> None:
    """Adds contexts from 64 to 4,096 tokens, without further training."""
    rows = []
    for model in (ONE, TWO, CONVOLVED, "x + causal conv + 1 layer"):
        cells: list[str] = []
        trained = _trained(results, out, "sequences", "recall", model)
        if trained is None:
            continue
        for tokens in CONTEXTS:
            source = GeneratedSequences(AssociativeRecall(context=tokens - 1), LONG_EXAMPLES, 7)
            cells.append(f"{_score(trained, source, tokens)['accuracy']:.3f}")
        rows.append(("recall, accuracy", model, *cells))
    for model in (ONE, TWO, CONVOLVED, "x + causal conv + 1 layer"):
        if trained := _trained(results, out, "text", "text", model):
            cells = [
                f"{_score(trained, _windows(trained, tokens), tokens)['loss']:.3f}"
                for tokens in CONTEXTS
            ]
            rows.append(("text, nats/token", model, *cells))
    if not rows:
        return
    page.section("Long sequences")
    page.paragraph(
        f"The same models on longer contexts than they learned from (64 tokens of recall, 128 of "
        f"text), up to 4,096: accuracy on {LONG_EXAMPLES} sequences of recall whose queries spread "
        f"further, and loss on the first {LONG_TOKENS:,} tokens of the test text. One seed."
    )
    page.table(("task", "model", *(f"{n:,}" for n in CONTEXTS)), rows)


def add_facts(page: Page, results: Sequence[Result]) -> None:
    """Adds where, when and with what the runs were made."""
    environments = [r.environment for r in results]
    starts = sorted(e.get("start_time", "")[:10] for e in environments)
    machines = sorted({f"{e.get('cpu')}, {e.get('cpu_cores')} cores" for e in environments})
    versions = sorted({f"jax {e.get('packages', {}).get('jax')}" for e in environments})
    seeds = sorted({r.member.seed for r in results})
    page.section("The runs")
    page.facts(
        {
            "runs": len(results),
            "seeds": ", ".join(map(str, seeds)),
            "training in all": duration(sum(r.seconds for r in results)),
            "hardware": "; ".join(machines),
            "packages": "; ".join(versions),
            "days": starts[0] if starts[0] == starts[-1] else f"{starts[0]} to {starts[-1]}",
            "page written": datetime.date.today().isoformat(),
        }
    )


def _mean(
    results: Sequence[Result], part: str, task: str, model: str, name: str = "accuracy"
) -> float:
    return mean_score(of(results, part, task, model), name)


def _trained(
    results: Sequence[Result], out: Path, part: str, task: str, model: str
) -> Trained | None:
    """Returns the first seed's model of a part of the comparison, if its run is done."""
    found = of(results, part, task, model)
    if not found:
        return None
    first = min(found, key=lambda r: r.member.seed)
    config = first.member.config()
    made = make_task(config)
    _, params = restore_params(made, config, out / first.member.folder)
    return Trained(first, made, params)


def _test(trained: Trained) -> Source:
    return trained.task.eval_sources["test"]


def _windows(trained: Trained, context: int) -> TokenWindows:
    """Returns the beginning of the test text in windows of another context."""
    test = _test(trained)
    assert isinstance(test, TextWindows)
    return TokenWindows(test.tokens[:LONG_TOKENS], context)


def _score(trained: Trained, source: Source, tokens: int) -> dict[str, Any]:
    """Scores a model on other data, as many tokens at once at most as two windows of 4,096."""
    return evaluate(trained.task, trained.params, source, max(1, 2 * CONTEXTS[-1] // tokens))
