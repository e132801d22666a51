"""Questions about pictures as a task of the training loop."""

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from common.array_types import Array, Float, Int, PRNGKey, PyTree, UInt8
from common.data.pipeline import Source
from common.data.sort_of_clevr import (
    BLANK,
    NON_RELATIONAL,
    RELATIONAL,
    SHAPES,
    TYPES,
    SceneSettings,
    SortOfClevr,
)
from common.data.sort_of_clevr.scenes import BACKGROUND, COUNT
from common.errors import UserError
from common.train import wilson_interval
from common.train.evaluation import Scores
from experiments.injection_models import Answers, VisionLanguageModel, make_injection_model

Batch = Mapping[str, Array]
SPLITS = ("train", "validation", "test")
BLANKS = ("nothing", "image", "question")
GROUPS = {"non_relational": NON_RELATIONAL, "relational": RELATIONAL}


@dataclasses.dataclass(frozen=True)
class InjectionTask:
    """Answers questions about pictures with the next token.

    Attributes:
        model: gives logits of the answers.
        train_source: pictures with questions to learn from.
        eval_sources: the same to score on, one question of every type about a picture.
        blank: what the model is not shown: 'nothing', the 'image' or the 'question'.
        naming_weight: of naming what stands at every place, a part of the objective: the encoder
            learns to see as those of larger models did before language came to them.
        gate_scale: factor of the learning rate of gates, which begin at 0 and keep vision out.
        relational_from: relational questions are no part of what is minimised up to this step, then
            a growing one, and count as the others after twice as many. Before objects are told
            apart they are noise, which keeps those about one object from being learned.
        metric: the score that chooses the best checkpoint.
    """

    model: VisionLanguageModel
    train_source: SortOfClevr
    eval_sources: Mapping[str, SortOfClevr]
    blank: str = "nothing"
    naming_weight: float = 1.0
    gate_scale: float = 1.0
    relational_from: int = 0
    metric: str = "accuracy"

    def init(self, rng: PRNGKey) -> PyTree:
        """Draws the model's parameters."""
        shapes = {name: jnp.asarray(x)[None] for name, x in self.train_source[0].items()}
        images, questions = self.inputs(shapes)
        rngs = {"params": rng, "slots": rng}
        return self.model.init(rngs, images, questions)["params"]

    def learning_rate_scales(self, params: PyTree) -> PyTree:
        """Returns the factor of the learning rate of every parameter."""
        return jax.tree_util.tree_map_with_path(
            lambda path, _: self.gate_scale if path[-1].key.endswith("gate") else 1.0, params
        )

    def inputs(
        self, batch: Mapping[str, Any]
    ) -> tuple[UInt8[Array, "b h w 3"], Int[Array, "b q l"]]:
        """Returns what the model is shown of a batch."""
        images, questions = jnp.asarray(batch["image"]), jnp.asarray(batch["tokens"])[..., :-1]
        if self.blank == "image":
            images = jnp.full_like(images, BACKGROUND)
        if self.blank == "question":
            questions = jnp.full_like(questions, BLANK)
        return images, questions

    def answer(self, params: PyTree, batch: Batch, rng: PRNGKey | None = None) -> Answers:
        """Returns what the model says; without a key slots begin at the same places."""
        rngs = {"slots": jax.random.key(0) if rng is None else rng}
        return cast(Answers, self.model.apply({"params": params}, *self.inputs(batch), rngs=rngs))

    def loss(self, params: PyTree, batch: Batch, rng: PRNGKey) -> tuple[Array, dict[str, Array]]:
        """Returns the objective at the end of training, the accuracy, and the gates."""
        return self.loss_at(params, batch, rng, jnp.asarray(2 * self.relational_from))

    def loss_at(
        self, params: PyTree, batch: Batch, rng: PRNGKey, step: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the mean cross-entropy (nats) of all members after `step` steps.

        Also the accuracy on all questions, and the gates.
        """
        said = self.answer(params, batch, rng)
        log_p = jax.nn.log_softmax(said.logits)
        answers = batch["tokens"][..., -1]
        losses = -_at(log_p, answers).mean((0, 1)).reshape(len(TYPES), -1).mean(-1)
        late = jnp.clip(step / max(self.relational_from, 1) - 1.0, 0.0, 1.0)
        late = late if self.relational_from else jnp.ones(())
        weights = jnp.stack([late if name in RELATIONAL else jnp.ones(()) for name in TYPES])
        loss = (weights * losses).sum() / weights.sum()
        accuracy = (_mean_of_members(log_p).argmax(-1) == answers).mean()
        naming, named = self.naming(said.names, batch)
        metrics = {"accuracy": accuracy, "named": named} | gates(params)
        return loss + self.naming_weight * naming, metrics

    def naming(self, names: Float[Array, "b s n"], batch: Batch) -> tuple[Array, Array]:
        """Returns how badly the encoder names what stands at its places, and how often it is right.

        The first is the mean cross-entropy (nats) of the places of objects, plus that of the empty
        ones, which are many more; the second is of the places of objects alone.
        """
        things = things_at_places(batch, self.model.side, self.train_source.settings)
        missed = -jnp.take_along_axis(jax.nn.log_softmax(names), things[..., None], -1)[..., 0]
        there = things > 0
        right = (names.argmax(-1) == things) & there
        loss = jnp.mean(missed, where=there) + jnp.mean(missed, where=~there)
        return loss, right.sum() / there.sum()

    def score(self, params: PyTree, batch: Batch) -> dict[str, Float[Array, "b"]]:
        """Returns means over the questions about each picture, also of each type and group.

        The answer of an ensemble is that of its members' mean probability.
        """
        log_p = _mean_of_members(jax.nn.log_softmax(self.answer(params, batch).logits))
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


def things_at_places(batch: Batch, side: int, settings: SceneSettings) -> Int[Array, "b s"]:
    """Returns what stands at every place of a map of the pictures, as `Seen.names` counts.

    An object stands at the places within its square, and at least at the one nearest to it.
    """
    step = settings.image_size / side
    middles = ((jnp.arange(side) + 0.5) * step)[None, None, None]
    near = jnp.abs(batch["centres"][..., None] - middles) <= max(settings.radius, step / 2)
    there = near[:, :, 0, :, None] & near[:, :, 1, None]
    number = (1 + len(SHAPES) * jnp.arange(COUNT))[None] + batch["shapes"]
    return (there * number[..., None, None]).max(1).reshape(there.shape[0], -1)


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


def make_task(config: ConfigDict) -> InjectionTask:
    """Builds model and data from a config.

    Raises:
        UserError: a value in `config.model` or `config.data` that cannot be used.
    """
    data = config.data
    if data.blank not in BLANKS:
        raise UserError(f"data.blank is {data.blank!r}; choose one of {', '.join(BLANKS)}")
    settings = SceneSettings(data.image_size, data.radius)
    sources = {
        split: SortOfClevr(
            settings,
            data[f"{split}_count"],
            data.per_type if split == "train" else 1,
            len(SPLITS) * data.seed + number,
        )
        for number, split in enumerate(SPLITS)
    }
    if not config.optim.gate_scale > 0:
        raise UserError(f"optim.gate_scale is {config.optim.gate_scale}; expected more than 0")
    if config.optim.relational_from < 0:
        raise UserError(
            f"optim.relational_from is {config.optim.relational_from}; expected 0 or more"
        )
    model = make_injection_model(config.model, data.image_size)
    return InjectionTask(
        model,
        sources.pop("train"),
        sources,
        data.blank,
        config.optim.naming_weight,
        config.optim.gate_scale,
        config.optim.relational_from,
    )
