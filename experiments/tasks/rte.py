"""Entailment between two sentences as a task of the training loop."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from alcnet import PERPLEXITY, ALCNet, Decision, Encoder, find_folder, load_encoder, lora
from common.array_types import Array, Float, PRNGKey, PyTree
from common.data.pairs import FolderTokens, TokenPairs, WordTokens, load_glue, make_facts
from common.errors import UserError
from experiments.models.entailment import fresh_encoder, make_alcnet
from experiments.tasks.film_scores import film_moments, film_summary, without_moments
from experiments.tasks.perplexity import open_perplexity

Batch = Mapping[str, Array]
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimised beside the cross-entropy.

    Attributes:
        smoothing: label smoothing at the end of training.
        smoothing_start: at its beginning; in between it falls along a line.
        r_drop: weight of the symmetric KL divergence between two passes with other dropout (Wu et
            al. 2021, "R-Drop"); above 0 a step takes twice as long.
        steps: length of training.
    """

    smoothing: float = 0.0
    smoothing_start: float = 0.0
    r_drop: float = 0.0
    steps: int = 1

    def smoothing_at(self, step: Array) -> Array:
        """Returns the label smoothing after `step` steps."""
        share = jnp.clip(step / self.steps, 0.0, 1.0)
        return self.smoothing_start + share * (self.smoothing - self.smoothing_start)


@dataclasses.dataclass(frozen=True)
class Rates:
    """Learning rates of the parts of the model, as factors of the config's.

    Attributes:
        layer_decay: factor from each layer of the encoder to the one below.
        branch_scale: factor of all that is not the encoder.
        frozen_layers: so many of the lowest layers do not learn, nor do the embeddings; -1 for all
            learn, 0 for the embeddings alone.
    """

    layer_decay: float = 1.0
    branch_scale: float = 1.0
    frozen_layers: int = -1

    def __call__(self, params: PyTree) -> PyTree:
        """Returns the factor of every parameter."""
        flat = flatten_dict(params, sep="/")
        depth = 1 + max((n for path in flat if (n := _layer(path)) is not None), default=0)
        return unflatten_dict({p: self._factor(p, depth) for p in flat}, sep="/")

    def _factor(self, path: str, depth: int) -> float:
        if not path.startswith("encoder/"):
            return 0.0 if path.startswith("frozen/") else self.branch_scale
        layer = _layer(path)
        if layer is None:
            layer = depth if path.startswith("encoder/pooler") else -1
        return 0.0 if layer < self.frozen_layers else self.layer_decay ** (depth - 1 - layer)


def _layer(path: str) -> int | None:
    match = re.match(r"encoder/layers_(\d+)/", path)
    return int(match[1]) if match else None


@dataclasses.dataclass(frozen=True)
class PairTask:
    """Classifies pairs of sentences.

    Attributes:
        model: gives a `Decision` from ids, mask and types.
        pretrained: parameters that the encoder begins with; None for drawn ones.
        train_source: pairs to learn from.
        eval_sources: pairs to score on.
        objective: what is minimised.
        rates: factors of the learning rate.
        adapters: rank of low-rank adapters of the encoder, whose own weights then stay as they
            are; 0 for none.
        measured: names of the numbers of an example that are statistics of the model's.
        metric: the score that chooses the best checkpoint.
    """

    model: ALCNet
    pretrained: PyTree | None
    train_source: TokenPairs
    eval_sources: Mapping[str, TokenPairs]
    objective: Objective = Objective()
    rates: Rates = Rates()
    adapters: int = 0
    measured: tuple[str, ...] = ()
    metric: str = "accuracy"

    def init(self, rng: PRNGKey) -> PyTree:
        """Draws the parameters that are not pretrained."""
        ids = jnp.zeros((1, 8), jnp.int32)
        inputs = self.inputs(dict.fromkeys(INPUTS, ids) | dict.fromkeys(self.measured, ids[:, 0]))
        params = dict(self.model.init(rng, **inputs)["params"])
        if self.pretrained is not None:
            params["encoder"] = jax.tree.map(jnp.asarray, self.pretrained)
        if self.adapters:
            encoder = params.pop("encoder")
            adapters = lora.init_adapters(jax.random.fold_in(rng, 1), encoder, self.adapters)
            params |= {"frozen": encoder, "adapters": adapters}
        return params

    def model_params(self, params: PyTree) -> PyTree:
        """Returns the parameters of the model: adapters merged, frozen ones without gradient."""
        if self.adapters:
            rest = {k: v for k, v in params.items() if k not in ("frozen", "adapters")}
            encoder = jax.tree.map(jax.lax.stop_gradient, params["frozen"])
            return rest | {"encoder": lora.merge(encoder, params["adapters"])}
        scales = self.rates(params)
        return jax.tree.map(lambda p, s: p if s else jax.lax.stop_gradient(p), params, scales)

    def learning_rate_scales(self, params: PyTree) -> PyTree:
        """Returns the factor of the learning rate of every parameter; 0 where it is frozen."""
        return self.rates(params)

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Returns what the model reads of a batch, by the names of its arguments."""
        numbers = [jnp.asarray(batch[name]) for name in self.measured]
        measured = jnp.stack(numbers, 1) if numbers else None
        return {name: batch[name] for name in INPUTS} | {"measured": measured}

    def decide(self, params: PyTree, batch: Batch, rng: PRNGKey | None = None) -> Decision:
        """Applies the model; with a key, as in training."""
        variables = {"params": self.model_params(params)}
        rngs = None if rng is None else {"dropout": rng}
        inputs = self.inputs(batch) | {"deterministic": rng is None}
        return self.model.apply(variables, **inputs, rngs=rngs)  # type: ignore[return-value]

    def loss(self, params: PyTree, batch: Batch, rng: PRNGKey) -> tuple[Array, dict[str, Array]]:
        """Returns the objective at the end of training and the accuracy."""
        return self.loss_at(params, batch, rng, jnp.asarray(self.objective.steps))

    def loss_at(
        self, params: PyTree, batch: Batch, rng: PRNGKey, step: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the mean objective (nats) after `step` steps, and the accuracy over a batch."""
        twice = self.objective.r_drop > 0
        if twice:
            batch = {name: jnp.concatenate([x, x]) for name, x in batch.items()}
        logits = self.decide(params, batch, rng).logits
        smoothing = self.objective.smoothing_at(step)
        loss = smoothed_cross_entropy(logits, batch["label"], smoothing).mean()
        if twice:
            loss = loss + self.objective.r_drop * symmetric_divergence(*jnp.split(logits, 2)).mean()
        return loss, {"accuracy": (logits.argmax(-1) == batch["label"]).mean()}

    def score(self, params: PyTree, batch: Batch) -> dict[str, Float[Array, "b"]]:
        """Returns each pair's cross-entropy (nats), if it was told right, and what FiLM did."""
        decision = self.decide(params, batch)
        logits = decision.logits
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        answers = logits.argmax(-1)
        return {
            "loss": loss,
            "accuracy": (answers == batch["label"]).astype(jnp.float32),
            "answers_class_0": (answers == 0).astype(jnp.float32),
            **film_moments(decision.modulations),
        }

    def derive(self, source: TokenPairs, scores: Mapping[str, float]) -> dict[str, float]:
        """Returns the scores, of the validation pairs with the summary of gamma and beta."""
        watched = source is self.eval_sources.get("validation")
        return without_moments(scores) | (film_summary(scores) if watched else {})


def smoothed_cross_entropy(
    logits: Float[Array, "b k"], labels: Array, smoothing: Array | float
) -> Float[Array, "b"]:
    """Returns the cross-entropy with (1 - e) of the mass on the label and e spread over all."""
    log = jax.nn.log_softmax(logits)
    right = jnp.take_along_axis(log, labels[:, None], 1)[:, 0]
    return -(1.0 - smoothing) * right - smoothing * log.mean(1)


def symmetric_divergence(p: Float[Array, "b k"], q: Float[Array, "b k"]) -> Float[Array, "b"]:
    """Returns (KL(p, q) + KL(q, p)) / 2 of two distributions given by logits."""
    a, b = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
    return 0.5 * jnp.sum((jnp.exp(a) - jnp.exp(b)) * (a - b), 1)


def make_task(config: ConfigDict) -> PairTask:
    """Builds model and data of a config.

    Raises:
        UserError: a value in `config.encoder`, `config.model` or `config.data` that cannot be used.
    """
    encoder, pretrained, folder = _open_encoder(config)
    model = make_alcnet(config.model, encoder)
    measure = open_perplexity(config) if config.model.perplexity else None
    sources = _open_sources(config, folder)
    if measure is not None:
        sources = {split: measure.attach(source) for split, source in sources.items()}
    optim, loss = config.optim, config.loss
    return PairTask(
        model,
        pretrained,
        sources.pop("train"),
        sources,
        Objective(loss.smoothing, loss.smoothing_start, loss.r_drop, config.train.steps),
        Rates(optim.layer_decay, optim.branch_scale, optim.frozen_layers),
        config.model.adapters,
        (PERPLEXITY,) if measure else (),
    )


def _open_encoder(config: ConfigDict) -> tuple[Encoder, PyTree | None, Any]:
    """Returns the encoder, its pretrained parameters if it has any, and its tokenizer."""
    chosen = config.encoder
    dtype = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}.get(chosen.dtype)
    if dtype is None:
        raise UserError(f"encoder.dtype is {chosen.dtype!r}; choose float32 or bfloat16")
    if not chosen.folder:
        if config.data.source != "generate":
            raise UserError("config.data needs a pretrained encoder; name its encoder.folder")
        return fresh_encoder(chosen, WordTokens.size, config.data.lengths[-1], dtype), None, None
    folder = find_folder(chosen.folder)
    encoder, variables = load_encoder(
        folder,
        dropout=chosen.dropout,
        attention_dropout=chosen.attention_dropout,
        dtype=dtype,
        remat=chosen.remat,
    )
    params = jax.device_get(variables["params"])
    return encoder.clone(pooler=None), {k: v for k, v in params.items() if k != "pooler"}, folder


def _open_sources(config: ConfigDict, folder: Any) -> dict[str, TokenPairs]:
    data, size = config.data, config.train.batch_size
    if list(data.lengths) != sorted(set(data.lengths)) or data.lengths[0] < 1:
        raise UserError(f"config.data.lengths is {tuple(data.lengths)}; expected rising numbers")
    if data.source == "generate":
        counts = {split: data[f"{split}_count"] for split in SPLITS}
        try:
            parts = {
                split: make_facts(count, data.facts, 10 * data.seed + number)
                for number, (split, count) in enumerate(counts.items())
                if count
            }
            tokens = WordTokens() if folder is None else FolderTokens(folder)
            return {
                split: TokenPairs(pairs, tokens, data.lengths, size if split == "train" else None)
                for split, pairs in parts.items()
            }
        except ValueError as error:
            raise UserError(f"config.data: {error}") from error
    parts = {split: load_glue(data.task, split, data.source, data.path) for split in SPLITS[:2]}
    tokens = FolderTokens(folder)
    return {
        split: TokenPairs(pairs, tokens, data.lengths, size if split == "train" else None)
        for split, pairs in parts.items()
    }
