"""Next-token prediction as a task of the training loop, on text or on made-up sequences."""

import dataclasses
import math
from collections.abc import Mapping
from typing import cast

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from common.array_types import Array, Bool, Float, Int, PRNGKey, PyTree
from common.data.corpora import describe_text, read_text, read_wikitext, split_text
from common.data.made_up import generate_text
from common.data.pipeline import Source
from common.data.sequences import (
    AssociativeRecall,
    Copying,
    GeneratedSequences,
    RepeatedSequences,
    SequenceTask,
)
from common.data.token_files import cached_tokens
from common.data.tokenizers import Tokenizer, make_tokenizer
from common.data.windows import TokenWindows
from common.errors import UserError
from common.kernels import CrossEntropy, linear_cross_entropy
from common.train.evaluation import Scores
from convattn import LanguageModel
from experiments.models.language import make_language_model

Batch = Mapping[str, Array]
SPLITS = ("train", "validation", "test")

SEQUENCES: dict[str, type[SequenceTask]] = {
    "repeats": RepeatedSequences,
    "recall": AssociativeRecall,
    "copying": Copying,
}
TEXTS = ("text", "wikitext", "made_up")


class TextWindows(TokenWindows):
    """Windows of a text that know how many words and bytes their targets are.

    Attributes:
        tokens: the whole row.
        words: words between white space of the text.
        bytes: bytes of its UTF-8.
        sha256: of those bytes.
    """

    def __init__(self, text: str, tokens: np.ndarray, context: int, stride: int):
        super().__init__(tokens, context, stride)
        self.tokens = tokens
        facts = describe_text(text)
        self.words, self.bytes = int(facts["words"]), int(facts["bytes"])
        self.sha256 = str(facts["sha256"])


@dataclasses.dataclass(frozen=True)
class LanguageTask:
    """Predicts the next token where the data says that it counts.

    Attributes:
        model: gives features and the table whose products are the logits.
        train_source: examples 'tokens' (t + 1,) and 'scored' (t,) to learn from.
        eval_sources: the same to score on.
        tokenizer: of the text; None for made-up sequences.
        metric: chooses the best checkpoint: the mean log probability of the scored tokens, nats.
    """

    model: LanguageModel
    train_source: Source
    eval_sources: Mapping[str, Source]
    tokenizer: Tokenizer | None = None
    metric: str = "log_likelihood"

    @property
    def context(self) -> int:
        """Number of tokens that the model is given."""
        return self.train_source[0]["scored"].shape[0]

    def init(self, rng: PRNGKey) -> PyTree:
        """Draws the model's parameters."""
        return self.model.init(rng, jnp.zeros((1, self.context), jnp.int32))["params"]

    def loss(self, params: PyTree, batch: Batch, rng: PRNGKey) -> tuple[Array, dict[str, Array]]:
        """Returns the mean cross-entropy (nats) and accuracy of the scored tokens."""
        del rng
        scored = batch["scored"].astype(jnp.float32)
        weights = scored / jnp.maximum(scored.sum(), 1.0)
        found = self.cross_entropy(params, batch["tokens"], weights)
        return found.total, {"accuracy": (weights * found.correct).sum()}

    def score(self, params: PyTree, batch: Batch) -> dict[str, Float[Array, "b"]]:
        """Returns means over the scored tokens of each example; 'weight' is their number."""
        scored = batch["scored"].astype(jnp.float32)
        found = self.cross_entropy(params, batch["tokens"], scored)
        count = jnp.maximum(scored.sum(-1), 1.0)
        loss = (scored * found.losses).sum(-1) / count
        accuracy = (scored * found.correct).sum(-1) / count
        return {
            "loss": loss,
            "accuracy": accuracy,
            "log_likelihood": -loss,
            "weight": scored.sum(-1),
        }

    def derive(self, source: Source, scores: Scores) -> Scores:
        """Adds perplexities and bits per byte, which hold for a whole text alone.

        Of the first token nothing is predicted; words and bytes count it, one in many thousands.
        """
        added: Scores = {"tokens": int(scores["weight"]), "perplexity": _exp(scores["loss"])}
        if isinstance(source, TextWindows):
            nats = scores["loss"] * scores["weight"]
            added["word_perplexity"] = _exp(nats / source.words)
            added["bits_per_byte"] = nats / source.bytes / math.log(2)
            added |= {"words": source.words, "bytes": source.bytes}
            added |= {"context": source.context, "stride": source.stride}
        kept = {name: value for name, value in scores.items() if name not in ("weight", "count")}
        return kept | added | {"count": scores["count"]}

    def logits(self, params: PyTree, tokens: Int[Array, "b t"]) -> Float[Array, "b t v"]:
        """Applies the model."""
        return cast(Array, self.model.apply({"params": params}, tokens))

    def cross_entropy(
        self,
        params: PyTree,
        tokens: Int[Array, "b t+1"],
        weights: Float[Array, "b t"] | Bool[Array, "b t"],
    ) -> CrossEntropy:
        """Returns losses (nats) of the predictions of tokens[:, 1:] and their weighted sum."""
        found = self.model.apply({"params": params}, tokens[:, :-1], method="features")
        features, table = cast(tuple[Array, Array], found)
        return linear_cross_entropy(features, table, tokens[:, 1:], weights)


def make_task(config: ConfigDict) -> LanguageTask:
    """Builds model and data from a config; a text is encoded once.

    Raises:
        UserError: a value in `config.model` or `config.data` that cannot be used.
    """
    kind = config.data.kind
    if kind in SEQUENCES:
        sources, tokenizer = make_sequences(config.data), None
        vocabulary = sources["train"].task.vocab_size
    elif kind in TEXTS:
        sources, tokenizer = make_windows(config.data)
        vocabulary = tokenizer.vocab_size
    else:
        raise UserError(f"data.kind is {kind!r}; choose one of {(*SEQUENCES, *TEXTS)}")
    train = sources.pop("train")
    length = train[0]["scored"].shape[0]
    model = make_language_model(config.model, vocabulary, length)
    return LanguageTask(model, train, sources, tokenizer)


def make_sequences(data: ConfigDict) -> dict[str, GeneratedSequences]:
    """Returns the splits of a made-up task; each has examples of its own."""
    kind = SEQUENCES[data.kind]
    fields = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    task = kind(**{k: v for k, v in data.items() if k in fields})
    return {
        split: GeneratedSequences(task, data[f"{split}_count"], len(SPLITS) * data.seed + number)
        for number, split in enumerate(SPLITS)
    }


def make_windows(data: ConfigDict) -> tuple[dict[str, TextWindows], Tokenizer]:
    """Returns the splits of a text, and its tokenizer, trained on the training split if at all."""
    texts = read_splits(data)
    tokenizer = make_tokenizer(data.tokenizer, texts["train"])
    sources = {}
    for split, text in texts.items():
        stride = data.context if split == "train" else data.stride
        tokens = cached_tokens(text, tokenizer, data.cache)
        sources[split] = TextWindows(text, tokens, data.context, stride)
    return sources, tokenizer


def read_splits(data: ConfigDict) -> dict[str, str]:
    """Returns the texts of the three splits.

    Raises:
        UserError: `data.path` is missing where it is needed, or holds no text.
    """
    if data.kind != "made_up" and not data.path:
        raise UserError(f"data.path is empty; kind {data.kind!r} needs --config.data.path=PATH")
    if data.kind == "wikitext":
        texts = read_wikitext(data.path)
    else:
        text = generate_text(seed=data.seed) if data.kind == "made_up" else read_text(data.path)
        texts = split_text(text)
    return dict(zip(SPLITS, (texts[name] for name in ("train", "valid", "test")), strict=True))


def _exp(nats: float) -> float:
    """Returns a perplexity, infinite where it is too large for a number."""
    return math.exp(nats) if nats < 700 else math.inf
