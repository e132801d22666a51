"""What pairs of sentences give away to answers that read no attention: baselines for every result.

All are logistic regressions fitted to the training pairs and scored on the held-out ones. The
vectors are those of the encoder before any training on the task.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alcnet import mean_of_tokens
from common.analysis import logistic_regression
from common.data.pairs import FolderTokens, Pairs, TokenPairs, overlap_features
from common.train import wilson_interval
from common.train.workdir import read_json, replace_file
from experiments.reports.measurements import Score

BATCH = 32
PENALTY = 1e-2
"""Weight of the squared weights where features are many."""
EXPLANATIONS = {
    "majority class": "the more frequent class of the training pairs",
    "sequence length": "the number of tokens alone",
    "word overlap": "seven numbers on words that the sentences share",
    "cosine of the sentences": "of their mean-pooled vectors, each encoded by itself",
    "word overlap and cosine": "both of the above",
    "mean pooling and linear": "the mean-pooled vector of the pair, encoder untrained on the task",
}

Vectors = Callable[[dict[str, np.ndarray]], np.ndarray]


def baselines(task: Any, held_out: TokenPairs, cache: Path, sentences: Any) -> dict[str, Score]:
    """Returns the accuracy on the held-out pairs by baseline, from `cache` where it is there.

    Args:
        task: its model's encoder and its training pairs are used.
        held_out: pairs to score on.
        cache: folder for what was computed.
        sentences: tokenizer of single sentences; None leaves out what needs it.
    """
    encoder = hashlib.sha256(str(task.model.encoder).encode())
    for leaf in jax.tree.leaves(task.pretrained)[:8] if task.pretrained is not None else ():
        encoder.update(np.ascontiguousarray(leaf).tobytes())
    name = f"{task.train_source.fingerprint}-{held_out.fingerprint}-{encoder.hexdigest()[:12]}"
    file = cache / f"pair-baselines-{name}.json"
    if file.is_file():
        return {key: Score(*value) for key, value in read_json(file).items()}
    found = _measure(task, held_out, sentences)
    cache.mkdir(parents=True, exist_ok=True)
    replace_file(file, json.dumps(found) + "\n")
    return found


def _measure(task: Any, held_out: TokenPairs, sentences: Any) -> dict[str, Score]:
    train = task.train_source
    y, z = train.pairs.labels, held_out.pairs.labels
    scores = {"majority class": score_answers(np.full(len(z), np.bincount(y).argmax()), z)}

    def add(name: str, fit: np.ndarray, test: np.ndarray) -> None:
        model = logistic_regression(fit, y, PENALTY)
        scores[name] = score_answers((model.probability(test) > 0.5).astype(int), z)

    add("sequence length", *(s.token_counts[:, None] for s in (train, held_out)))
    overlap = [overlap_features(s.pairs) for s in (train, held_out)]
    add("word overlap", *overlap)
    if task.pretrained is None:
        return scores
    vectors = mean_vectors(task)
    if sentences is not None:
        cosines = [sentence_cosines(s.pairs, sentences, vectors) for s in (train, held_out)]
        add("cosine of the sentences", *cosines)
        both = [np.concatenate(pair, 1) for pair in zip(overlap, cosines, strict=True)]
        add("word overlap and cosine", *both)
    add("mean pooling and linear", *(pair_vectors(s, vectors) for s in (train, held_out)))
    return scores


def mean_vectors(task: Any) -> Vectors:
    """Returns the function from a batch to mean-pooled vectors (b, d) of the untrained encoder."""
    encoder, params = task.model.encoder, jax.tree.map(jnp.asarray, task.pretrained)

    @jax.jit
    def vectors(batch: dict[str, np.ndarray]) -> jax.Array:
        inputs = [batch[k] for k in ("input_ids", "attention_mask", "token_type_ids")]
        out = encoder.apply({"params": params}, *inputs)
        return mean_of_tokens(out.last_hidden_state, jnp.asarray(batch["attention_mask"]))

    return lambda batch: np.asarray(vectors(batch))


def pair_vectors(source: TokenPairs, vectors: Vectors) -> np.ndarray:
    """Returns the vectors (n, d) of pairs, the short ones together."""
    order = np.argsort(source.token_counts, kind="stable")
    parts = [
        vectors({k: v for k, v in source.__getitems__(part).items() if k != "label"})[:n]
        for part, n in _full_batches(order)
    ]
    return np.concatenate(parts)[np.argsort(order, kind="stable")]


def sentence_cosines(pairs: Pairs, sentences: FolderTokens, vectors: Vectors) -> np.ndarray:
    """Returns the cosine (n, 1) of the vectors of both sentences of each pair."""
    sides = [_sentence_vectors(s, sentences, vectors) for s in (pairs.first, pairs.second)]
    units = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
    return np.sum(units[0] * units[1], 1, keepdims=True)


def _sentence_vectors(
    texts: tuple[str, ...], sentences: FolderTokens, vectors: Vectors
) -> np.ndarray:
    ids = sentences.single(texts, 128)
    counts = np.array([len(row) for row in ids])
    order, found = np.argsort(counts, kind="stable"), []
    for part, n in _full_batches(order):
        width = -(-int(counts[part].max()) // 32) * 32
        batch = {k: np.zeros((len(part), width), np.int32) for k in ("input_ids", "attention_mask")}
        batch["token_type_ids"] = np.zeros_like(batch["input_ids"])
        for row, example in enumerate(part):
            batch["input_ids"][row, : counts[example]] = ids[example]
            batch["attention_mask"][row, : counts[example]] = 1
        found.append(vectors(batch)[:n])
    return np.concatenate(found)[np.argsort(order, kind="stable")]


def _full_batches(order: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Cuts an order into batches of one size; the last repeats its last example."""
    starts: Sequence[int] = range(0, len(order), BATCH)
    return [
        (order[np.minimum(np.arange(s, s + BATCH), len(order) - 1)], min(BATCH, len(order) - s))
        for s in starts
    ]


def score_answers(answers: np.ndarray, labels: np.ndarray) -> Score:
    """Returns the accuracy of answers with its 95 % Wilson interval."""
    hits = int((answers == labels).sum())
    return Score(hits / len(labels), *wilson_interval(hits, len(labels)))
