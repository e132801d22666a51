"""What a language model does with its context: weights, losses, and what it says of prefixes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from common.analysis import (
    attention_by_offset,
    capture,
    copying_score,
    copying_strength,
    prefix_matching_score,
    previous_token_score,
)
from common.analysis.induction import OFFSETS
from common.array_types import Float, Int, PyTree
from common.data.pipeline import Source, gather
from convattn import prefix_logits
from experiments.tasks.language import LanguageTask

BATCH = 16
"""Sequences at once in a forward pass."""


class Answers(NamedTuple):
    """What a model says of some sequences.

    Attributes:
        tokens: (b, t + 1) the sequences.
        scored: (b, t) which predictions count.
        losses: (b, t) cross-entropy of tokens[:, 1:], nats.
        correct: (b, t) whether the right token was the most probable one.
    """

    tokens: Int[np.ndarray, "b t+1"]
    scored: np.ndarray
    losses: Float[np.ndarray, "b t"]
    correct: np.ndarray

    @property
    def accuracy(self) -> float:
        """Returns the share of scored predictions that are right."""
        return float(self.correct[self.scored].mean())

    @property
    def loss(self) -> float:
        """Returns the mean loss of the scored predictions, nats."""
        return float(self.losses[self.scored].mean())


def answers(
    task: LanguageTask, params: PyTree, source: Source, count: int, batch: int = BATCH
) -> Answers:
    """Returns the losses of the first `count` examples of a source, whatever is scored in them."""
    found = jax.jit(lambda p, tokens, w: task.cross_entropy(p, tokens, w)[1:])
    parts = []
    for start in range(0, min(count, len(source)), batch):
        indices = np.arange(start, min(start + batch, count, len(source)))
        examples = gather(source, np.resize(indices, batch))
        losses, correct = found(params, examples["tokens"], examples["scored"].astype(np.float32))
        kept = len(indices)
        parts.append(
            (examples["tokens"], examples["scored"], np.asarray(losses), np.asarray(correct))
        )
        parts[-1] = tuple(x[:kept] for x in parts[-1])
    return Answers(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def attention_weights(
    task: LanguageTask, params: PyTree, tokens: Int[np.ndarray, "b t"]
) -> dict[str, Float[np.ndarray, "b heads q s"]]:
    """Returns the attention weights of each layer by its name, 'layer 1' and so on."""
    look = jax.jit(lambda p, x: capture(task.model, {"params": p}, x)[1])
    sown = {name: np.asarray(x) for name, x in look(params, tokens).items() if "weights" in name}
    return {f"layer {i}": sown[name] for i, name in enumerate(sorted(sown), 1)}


def offset_profiles(
    task: LanguageTask,
    params: PyTree,
    found: Answers,
    offsets: Sequence[int] = OFFSETS,
    count: int = 64,
) -> dict[str, Float[np.ndarray, "heads offsets"]]:
    """Returns where each layer's heads attend, relative to the current token's last occurrence.

    Only queries whose prediction is scored count.
    """
    tokens, scored = found.tokens[:count, :-1], found.scored[:count]
    weights = attention_weights(task, params, tokens)
    return {
        name: attention_by_offset(layer, tokens, offsets, where=scored)
        for name, layer in weights.items()
    }


def kernels(params: PyTree) -> dict[str, Float[np.ndarray, "k c"]]:
    """Returns the kernels of all convolutions by their path, (taps, channels)."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return {
        path.removesuffix("/kernel"): np.asarray(value)
        for path, value in flat.items()
        if path.endswith("/kernel") and ("/conv/" in path or "/mixers_" in path)
    }


class Leak(NamedTuple):
    """What a model says within whole sequences, and of prefixes alone.

    Attributes:
        whole: mean loss of scored predictions at some places within whole sequences, nats; NaN
            where nothing is scored there.
        alone: that of the same predictions where only the tokens before them are given.
        difference: largest difference of the two in any logit; 0 but for rounding where a model
            sees nothing of the future.
    """

    whole: float
    alone: float
    difference: float


def leak(task: LanguageTask, params: PyTree, found: Answers, lengths: Sequence[int]) -> Leak:
    """Compares what a model says within whole sequences with what it says of prefixes alone.

    A model that looks ahead may have a low loss within whole sequences and lose it when it must
    really predict.

    Args:
        task: model and data.
        params: parameters.
        found: sequences, with their losses as a whole.
        lengths: numbers of tokens that the model is given, each compiled once.
    """
    places, tokens = np.asarray(lengths), jnp.asarray(found.tokens[:, :-1])
    inside = np.asarray(jax.jit(task.logits)(params, tokens))[:, places - 1]
    outside = np.asarray(prefix_logits(task.model, {"params": params}, tokens, lengths))
    log_probabilities = np.asarray(jax.nn.log_softmax(outside, -1))
    alone = -np.take_along_axis(log_probabilities, found.tokens[:, places][..., None], -1)[..., 0]
    scored = found.scored[:, places - 1]
    difference = float(np.abs(inside - outside).max())
    if not scored.any():
        return Leak(np.nan, np.nan, difference)
    whole = float(found.losses[:, places - 1][scored].mean())
    return Leak(whole, float(alone[scored].mean()), difference)


def shown_lengths(context: int, count: int = 6) -> list[int]:
    """Returns numbers of tokens spread over the second half of a context."""
    return sorted({int(n) for n in np.linspace(context // 2 + 1, context - 2, count)})


class HeadScores(NamedTuple):
    """How the head with the most mass at one offset of the last layer looks back and copies.

    Attributes:
        offset: where its largest mass lies, from the last occurrence of the current token.
        mass: that mass.
        induction: mass at +1, the textbook's place.
        prefix_matching: mass on all that followed earlier occurrences.
        previous_token: largest mean attention to the token before, of all heads of all layers.
        copying: sum of the eigenvalues of the head's map from tokens to logits over that of their
            sizes, from -1 to 1.
        copying_strength: standard deviations by which it raises the logit of what it reads.
    """

    offset: int
    mass: float
    induction: float
    prefix_matching: float
    previous_token: float
    copying: float
    copying_strength: float


def head_scores(task: LanguageTask, params: PyTree, found: Answers, count: int = 64) -> HeadScores:
    """Scores the heads of a model on some sequences.

    Copying is that of the token that should come next: behind a convolution of the embeddings it
    lies offset - 1 taps back in what the head reads.
    """
    tokens, scored = found.tokens[:count, :-1], found.scored[:count]
    weights = attention_weights(task, params, tokens)
    last = list(weights.values())[-1]
    profile = attention_by_offset(last, tokens, OFFSETS, where=scored)
    head, place = np.unravel_index(int(np.nanargmax(profile)), profile.shape)
    circuit = _circuit(params, heads=last.shape[1], lag=OFFSETS[place] - 1)
    return HeadScores(
        offset=OFFSETS[place],
        mass=float(profile[head, place]),
        induction=float(profile[head, OFFSETS.index(1)]),
        prefix_matching=float(prefix_matching_score(last, tokens, where=scored)[head]),
        previous_token=float(max(previous_token_score(x).max() for x in weights.values())),
        copying=float(copying_score(*circuit)[head]),
        copying_strength=float(copying_strength(*circuit)[head]),
    )


def _circuit(params: PyTree, heads: int, lag: int) -> tuple[np.ndarray, ...]:
    """Returns embedding, values, outputs and unembedding of the last layer with attention."""
    flat = {k: np.asarray(v) for k, v in traverse_util.flatten_dict(params, sep="/").items()}
    layer = max(path.split("/")[0] for path in flat if path.endswith("value/kernel"))
    embedding = flat["embedding"]
    width = embedding.shape[1]
    kernel = flat.get("layers_0/conv/kernel")
    read = embedding
    if kernel is not None and 0 <= lag < len(kernel):
        read = embedding * kernel[len(kernel) - 1 - lag]
    read = read - read.mean(1, keepdims=True)
    read = read / read.std(1, keepdims=True) * flat[f"{layer}/norm/scale"]
    value = flat[f"{layer}/value/kernel"].reshape(width, heads, -1)
    output = flat[f"{layer}/out/kernel"].reshape(heads, -1, width)
    unembedding = flat.get("head/kernel", embedding)
    return read, value, output, (unembedding * flat["norm/scale"]).T


def describe(config: Any) -> str:
    """Says in a few words what a config's model is: 'conv_attn, 5 taps'."""
    model = config.model
    words = [model.name]
    if "depth" in model:
        words.append(f"{model.depth} layer{'s' if model.depth > 1 else ''}")
    if "taps" in model:
        words.append(f"{model.taps} taps")
    return ", ".join(words)
