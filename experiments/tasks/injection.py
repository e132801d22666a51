"""Questions about pictures as a task of the training loop."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from common.array_types import Array, Float, Int, PRNGKey, PyTree
from common.data.pipeline import Source
from common.data.sort_of_clevr import BLANK, NON_RELATIONAL, RELATIONAL, TYPES
from common.data.sort_of_clevr.questions import QUESTION_LENGTH
from common.errors import UserError
from common.train import wilson_interval
from common.train.evaluation import Scores
from experiments.models.injection import VisionLanguageModel, make_injection_model
from experiments.models.scene_encoder import map_side
from experiments.tasks.encoded_scenes import EncodedScenes, See
from experiments.tasks.scene_encoder import encoder_run, pictures, trained_encoder

Batch = Mapping[str, Array]
BLANKS = ("nothing", "image", "question")
GROUPS = {"non_relational": NON_RELATIONAL, "relational": RELATIONAL}


@dataclasses.dataclass(frozen=True)
class InjectionTask:
    """Answers questions about pictures with the next token.

    Attributes:
        model: gives logits of the answers from a picture's features.
        train_source: encoded pictures with questions to learn from.
        eval_sources: the same to score on, one question of every type about a picture.
        blank: what the model is not shown: 'nothing', the 'image' or the 'question'.
        gate_scale: factor of the learning rate of gates, which begin at 0 and keep vision out.
        metric: the score that chooses the best checkpoint.
    """

    model: VisionLanguageModel
    train_source: EncodedScenes
    eval_sources: Mapping[str, EncodedScenes]
    blank: str = "nothing"
    gate_scale: float = 1.0
    metric: str = "accuracy"

    def init(self, rng: PRNGKey) -> PyTree:
        """Draws the model's parameters."""
        features = jnp.zeros((1, self.model.side**2, self.model.width))
        questions = jnp.zeros((1, len(TYPES), QUESTION_LENGTH), jnp.int32)
        return self.model.init({"params": rng, "slots": rng}, features, questions)["params"]

    def learning_rate_scales(self, params: PyTree) -> PyTree:
        """Returns the factor of the learning rate of every parameter."""
        return jax.tree_util.tree_map_with_path(
            lambda path, _: self.gate_scale if path[-1].key.endswith("gate") else 1.0, params
        )

    def inputs(self, batch: Mapping[str, Any]) -> tuple[Float[Array, "b s c"], Int[Array, "b q l"]]:
        """Returns what the model is shown of a batch."""
        features, questions = jnp.asarray(batch["features"]), jnp.asarray(batch["tokens"])[..., :-1]
        if self.blank == "image":
            features = jnp.zeros_like(features)
        if self.blank == "question":
            questions = jnp.full_like(questions, BLANK)
        return features, questions

    def answer(
        self, params: PyTree, batch: Batch, rng: PRNGKey | None = None
    ) -> Float[Array, "m b q v"]:
        """Returns each member's logits; without a key slots begin at the same places."""
        rngs = {"slots": jax.random.key(0) if rng is None else rng}
        return cast(Array, self.model.apply({"params": params}, *self.inputs(batch), rngs=rngs))

    def loss(self, params: PyTree, batch: Batch, rng: PRNGKey) -> tuple[Array, dict[str, Array]]:
        """Returns the mean cross-entropy (nats) of all members, the accuracy, and the gates."""
        log_p = jax.nn.log_softmax(self.answer(params, batch, rng))
        answers = batch["tokens"][..., -1]
        accuracy = (_mean_of_members(log_p).argmax(-1) == answers).mean()
        return -_at(log_p, answers).mean(), {"accuracy": accuracy} | gates(params)

    def score(self, params: PyTree, batch: Batch) -> dict[str, Float[Array, "b"]]:
        """Returns means over the questions about each picture, also of each type and group.

        The answer of an ensemble is that of its members' mean probability.
        """
        log_p = _mean_of_members(jax.nn.log_softmax(self.answer(params, batch)))
        answers = batch["tokens"][..., -1]
        loss = -_at(log_p[None], answers)[0]
        right = (log_p.argmax(-1) == answers).astype(jnp.float32)
        by_type = right.reshape(right.shape[0], len(TYPES), -1).mean(-1)
        found = dict(zip(TYPES, by_type.T, strict=True))
        groups = {
            group: jnp.stack([found[name] for name in names]).mean(0)
            for group, names in GROUPS.items()
        }
        return {"loss": loss.mean(-1), "accuracy": right.mean(-1)} | groups | found

    def derive(self, source: Source, scores: Scores) -> Scores:
        """Adds 95 % intervals of the means over several questions about a picture.

        They are those of as many independent questions as there are pictures, which is wider than
        need be: the mean of several answers varies less than one.
        """
        del source
        count = int(scores["count"])
        bounds = {}
        for name in ("accuracy", *GROUPS):
            low, high = wilson_interval(scores[name] * count, count)
            bounds |= {f"{name}_low": low, f"{name}_high": high}
        return {**scores, **bounds}


def gates(params: PyTree) -> dict[str, Array]:
    """Returns the tanh of every gate, in the mean of its channels, by layer and name."""
    found = {}
    for path, leaf in flatten_dict(params).items():
        if path[-1].endswith("gate"):
            found["/".join(path[-2:])] = jnp.tanh(cast(Array, leaf)).mean()
    return found


def _at(log_p: Float[Array, "m b q v"], answers: Int[Array, "b q"]) -> Float[Array, "m b q"]:
    """Returns the log probability of each answer."""
    return jnp.take_along_axis(log_p, answers[None, ..., None], -1)[..., 0]


def _mean_of_members(log_p: Float[Array, "m b q v"]) -> Float[Array, "b q v"]:
    """Returns the log of the members' mean probability."""
    return jax.nn.logsumexp(log_p, axis=0) - np.log(log_p.shape[0])


def make_task(config: ConfigDict, see: See | None = None) -> InjectionTask:
    """Builds model and data from a config.

    Args:
        config: see the folder of configs.
        see: encodes pictures; by default the encoder that `train_encoder` has trained, which is
            looked for when the first pictures are asked for.

    Raises:
        UserError: a value that cannot be used.
    """
    data = config.data
    if data.blank not in BLANKS:
        raise UserError(f"data.blank is {data.blank!r}; choose one of {', '.join(BLANKS)}")
    if not config.optim.gate_scale > 0:
        raise UserError(f"optim.gate_scale is {config.optim.gate_scale}; expected more than 0")
    if config.encoder.model.width != config.model.width:
        raise UserError(
            f"encoder.model.width is {config.encoder.model.width}; expected that of the model, "
            f"{config.model.width}"
        )
    model = make_injection_model(config.model, map_side(data.image_size))
    _, folder = encoder_run(config)
    find = functools.cache(lambda: see or trained_encoder(config))
    sources = {
        split: EncodedScenes(
            pictures(data, split, data[f"{split}_count"], data.per_type if split == "train" else 1),
            find,
            folder.name,
            folder / "features" if see is None else None,
        )
        for split in ("train", "validation", "test")
    }
    return InjectionTask(model, sources.pop("train"), sources, data.blank, config.optim.gate_scale)
