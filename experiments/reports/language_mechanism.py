"""Sections of the comparison of language models on how they work, from their parameters."""

from typing import Any

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
from common.data.pipeline import Source
from common.data.sequences import AssociativeRecall, GeneratedSequences
from common.data.windows import TokenWindows
from common.train import evaluate
from experiments.analyses import language as look
from experiments.comparisons.language import CONVOLVED, LEAKY, MODELS, ONE, TAPS, TWO
from experiments.comparisons.results import Comparison, Trained
from experiments.tasks.language import TextWindows

LOOKED_AT = (ONE, TWO, CONVOLVED, "x + causal conv + 1 layer", "conv on keys", LEAKY)
"""Models whose heads are looked at."""
FEW = (ONE, TWO, CONVOLVED, "x + causal conv + 1 layer")
"""Models that are looked at on long contexts."""
CONTEXTS = (64, 128, 256, 512, 1024, 2048, 4096)
LONG_TOKENS = 2**15
"""Tokens of the test text that long contexts are scored on."""
LONG_EXAMPLES = 64
LEAK_SEQUENCES = 16


def add_leak(page: Page, runs: Comparison) -> None:
    """Adds what the models say of prefixes alone."""
    page.section("Who reads the answer")
    page.paragraph(
        "Loss of scored predictions within whole test sequences, and of the same ones when the "
        "model is given the tokens before them and nothing else. A model that does not look ahead "
        "says the same in both cases. One seed."
    )
    rows = []
    for part, task in (("sequences", "recall"), ("text", "text")):
        for model in MODELS:
            if trained := runs.trained(part, task, model):
                found = look.answers(trained.task, trained.params, _test(trained), LEAK_SEQUENCES)
                lengths = look.shown_lengths(found.losses.shape[1], 3)
                leak = look.leak(trained.task, trained.params, found, lengths)
                cells = (f"{leak.whole:.3f}", f"{leak.alone:.3f}", f"{leak.difference:.1g}")
                rows.append((task, model, *cells))
    header = ("task", "model", "within whole sequences", "prefixes alone")
    page.table((*header, "largest difference of a logit"), rows)


def add_heads(page: Page, runs: Comparison) -> None:
    """Adds where the heads look on repeats, and how they copy."""
    profiles, rows = {}, []
    maps: dict[str, Any] = {}
    for model in LOOKED_AT:
        trained = runs.trained("sequences", "repeats", model)
        if trained is None:
            continue
        found = look.answers(trained.task, trained.params, _test(trained), 64)
        layers = look.offset_profiles(trained.task, trained.params, found)
        profiles[model] = list(layers.values())[-1]
        if model in (TWO, CONVOLVED):
            weights = look.attention_weights(trained.task, trained.params, found.tokens[:1, :-1])
            maps |= {f"{model}: {name}": layer[0] for name, layer in weights.items()}
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


def add_positions(page: Page, runs: Comparison) -> None:
    """Adds the loss on text by the number of tokens to go by, up to 512."""
    losses, rows = {}, []
    for model in FEW:
        if trained := runs.trained("text", "text", model):
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


def add_taps(page: Page, runs: Comparison) -> None:
    """Adds the sweep of the kernel's length, and the kernels that were learned."""
    rows, learned = [], {}
    for taps in TAPS:
        cells = []
        for task, name in (("repeats", "accuracy"), ("text", "loss")):
            trained = runs.trained("taps", task, f"{taps} taps")
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
    five = runs.trained("taps", "text", "5 taps")
    if five is not None:
        kernel = next(iter(look.kernels(five.params).values()))
        page.figure(kernel_profile(kernel, title="5 taps, on text"), "kernel", "A learned kernel")
    leaky = runs.trained("text", "text", LEAKY)
    if leaky is not None:
        kernel = next(iter(look.kernels(leaky.params).values()))
        page.paragraph(
            "The symmetric kernel, for comparison: the weights at offsets +1 and +2 are those that "
            "read the answer."
        )
        figure = kernel_profile(kernel, range(-2, 3), title="symmetric, 5 taps, on text")
        page.figure(figure, "leaky_kernel", "The kernel of the model that looks ahead")


def add_long(page: Page, runs: Comparison) -> None:
    """Adds contexts from 64 to 4,096 tokens, without further training."""
    rows = []
    for model in FEW:
        cells: list[str] = []
        trained = runs.trained("sequences", "recall", model)
        if trained is None:
            continue
        for tokens in CONTEXTS:
            source = GeneratedSequences(AssociativeRecall(context=tokens - 1), LONG_EXAMPLES, 7)
            cells.append(f"{_score(trained, source, tokens)['accuracy']:.3f}")
        rows.append(("recall, accuracy", model, *cells))
    for model in FEW:
        if trained := runs.trained("text", "text", model):
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
