"""The page of a language run: scores, curves, where it attends, whether it reads the answer."""

from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from common.analysis import (
    Page,
    attention_maps,
    kernel_profile,
    learning_curves,
    loss_by_position,
    offset_profile,
)
from common.analysis.induction import OFFSETS
from common.array_types import PyTree
from convattn import generate
from experiments.analyses import language as look
from experiments.reports.record import RunRecord, add_facts, read_record
from experiments.reports.wording import share
from experiments.tasks.language import LanguageTask

SEQUENCES = 64
"""Held-out sequences that the figures are made of."""
SHOWN_TOKENS = 32
PROMPT_TOKENS, NEW_TOKENS = 24, 60
LEAK = 0.05
"""Difference of logits above which a model is said to look ahead; half precision rounds less."""


def write_report(config: ConfigDict, workdir: Path, task: LanguageTask, params: PyTree) -> Path:
    """Writes workdir/report/report.html, with its pictures also beside it as PNG files.

    Args:
        config: settings of the run.
        workdir: folder of the run.
        task: model and data.
        params: parameters to report on, those of the best checkpoint as a rule.

    Returns:
        The path of the page.
    """
    run = read_record(config, workdir, params)
    split = "test" if "test" in task.eval_sources else "validation"
    found = look.answers(task, params, task.eval_sources[split], SEQUENCES)
    page = Page(f"Language: {look.describe(config)} on {config.data.kind}")
    add_result(page, run, task, found)
    add_curves(page, run)
    add_attention(page, run, task, found)
    add_kernels(page, run)
    add_positions(page, found)
    if task.tokenizer is not None and config.model.name != "leaky":
        add_sample(page, run, task, found)
    add_facts(page, run, "experiments.language", "sequences")
    return page.write(workdir / "report" / "report.html")


def add_result(page: Page, run: RunRecord, task: LanguageTask, found: look.Answers) -> None:
    """Adds the scores in a sentence, what they mean, and whether the model reads the answer."""
    scores = run.result.get("test") or run.result.get("validation")
    if scores is None:
        page.lead("The run has not ended yet; what follows is of its parameters so far.")
    else:
        page.lead(
            f"The model gives the right token the largest probability in "
            f"{share(scores['accuracy'])} of {scores['tokens']:,} scored predictions of the test "
            f"data; its loss is {scores['loss']:.3f} nats a token, a perplexity of "
            f"{scores['perplexity']:.4g}."
        )
    if scores and "word_perplexity" in scores:
        page.paragraph(
            f"Over the {scores['words']:,} words and {scores['bytes']:,} bytes of the test text "
            f"that is a perplexity of {scores['word_perplexity']:.4g} a word and "
            f"{scores['bits_per_byte']:.4g} bits a byte, with a context of {scores['context']} "
            f"tokens and a stride of {scores['stride']}. Perplexities a token depend on the "
            "tokenizer and compare with nothing else."
        )
    else:
        chance = task.train_source.task.chance  # type: ignore[attr-defined]
        page.paragraph(
            f"Only predictions that the context determines are scored, so the best accuracy is "
            f"{share(1.0, 0)}; without the context it is {share(chance)}."
        )
    some = look.Answers(*(x[:8] for x in found))
    leak = look.leak(task, run.params, some, look.shown_lengths(some.losses.shape[1]))
    page.paragraph(
        f"Within whole sequences the loss of some predictions is {leak.whole:.3f} nats; given only "
        f"the tokens before them it is {leak.alone:.3f}, and no logit differs by more than "
        f"{leak.difference:.2g}. "
        + (
            "So it sees nothing of the future."
            if leak.difference < LEAK
            else "So it looks ahead, and its scores say nothing about prediction."
        )
    )


def add_curves(page: Page, run: RunRecord) -> None:
    """Adds loss and accuracy over the steps."""
    if {record["split"] for record in run.records} < {"train", "validation"}:
        return
    page.section("Learning")
    page.paragraph(
        f"Loss (nats a token) and accuracy over {run.last_step:,} steps of "
        f"{run.config.train.batch_size} sequences. The orange line is the mean over the training "
        "sequences since the point before, the blue one the validation data."
    )
    figure = learning_curves(run.records, best_step=run.result.get("best_step"))
    page.figure(figure, "learning_curves", "Loss and accuracy over the training steps")


def add_attention(page: Page, run: RunRecord, task: LanguageTask, found: look.Answers) -> None:
    """Adds the maps of all heads on one sequence, and where they look for what came before."""
    tokens = found.tokens[:1, :-1]
    weights = look.attention_weights(task, run.params, tokens)
    page.section("Attention")
    page.paragraph(
        "The weights of every head on one held-out sequence; a row is the token that attends, a "
        "column the token attended to."
    )
    labels = None
    if tokens.shape[1] <= SHOWN_TOKENS:
        labels = [_label(task, int(token)) for token in tokens[0]]
    figure = attention_maps({name: layer[0] for name, layer in weights.items()}, labels)
    page.figure(figure, "attention_maps", "Attention weights of every head on one sequence")
    profiles = look.offset_profiles(task, run.params, found)
    best = {name: np.nanmax(x, axis=0) for name, x in profiles.items() if np.isfinite(x).any()}
    if not best:
        return
    name, peak = max(best.items(), key=lambda item: np.nanmax(item[1]))
    page.paragraph(
        "How much the heads attend to places around the last occurrence of the current token, "
        "averaged over the scored predictions. Offset +1, the dashed line, is the token that "
        f"followed it, where an induction head looks. The largest mass is {share(np.nanmax(peak))} "
        f"at offset {OFFSETS[int(np.nanargmax(peak))]:+d} in {name}."
    )
    figure = offset_profile(OFFSETS, profiles)
    page.figure(figure, "offset_profile", "Attention by offset from the last occurrence")


def add_kernels(page: Page, run: RunRecord) -> None:
    """Adds the weights of every convolution."""
    kernels = look.kernels(run.params)
    if not kernels:
        return
    page.section("Convolution")
    ahead = run.config.model.taps // 2 if run.config.model.name == "leaky" else 0
    for number, (path, kernel) in enumerate(kernels.items(), 1):
        taps = len(kernel)
        offsets = range(1 - taps + ahead, 1 + ahead)
        largest = offsets[int(np.abs(kernel).mean(1).argmax())]
        page.paragraph(
            f"{path}: weights by how far back the token lies. They are largest, in the mean of "
            f"their sizes over channels, at offset {largest:+d}."
        )
        figure = kernel_profile(kernel, offsets)
        page.figure(figure, f"kernel_{number}", f"Weights of the convolution {path}")


def add_positions(page: Page, found: look.Answers) -> None:
    """Adds the loss by how many tokens there are to go by."""
    page.section("Loss by position")
    page.paragraph(
        "Mean loss of the predictions that are scored, by the number of tokens before them, over "
        f"{len(found.losses)} held-out sequences."
    )
    always = found.scored.any(0)
    losses = np.where(found.scored, found.losses, np.nan)[:, always]
    mean = np.nanmean(losses, axis=0, keepdims=True)
    page.figure(loss_by_position({"this model": mean}), "loss_by_position", "Loss by position")


def add_sample(page: Page, run: RunRecord, task: LanguageTask, found: look.Answers) -> None:
    """Adds a text that the model goes on with."""
    assert task.tokenizer is not None
    prompt = found.tokens[:1, :PROMPT_TOKENS]
    new = generate(
        task.model,
        {"params": run.params},
        prompt,
        min(NEW_TOKENS, task.context - PROMPT_TOKENS) if task.context > PROMPT_TOKENS else 1,
        jax.random.key(0),
        temperature=0.8,
    )
    page.section("A text that it goes on with")
    page.paragraph("The prompt is from the held-out text; temperature 0.8.")
    page.facts(
        {
            "prompt": task.tokenizer.decode(prompt[0]),
            "continuation": task.tokenizer.decode(np.asarray(new[0])),
        }
    )


def _label(task: LanguageTask, token: int) -> str:
    return str(token) if task.tokenizer is None else task.tokenizer.decode(np.array([token]))
