"""An encoder that learns what pictures show before any language, and that runs share."""

import dataclasses
import fcntl
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from common.array_types import Array, Bool, Float, Int, PRNGKey, PyTree, UInt8
from common.data.sort_of_clevr import SHAPES, SceneSettings, SortOfClevr
from common.data.sort_of_clevr.scenes import COUNT
from common.errors import UserError
from common.injection import GatedMLP
from common.train import fit, restore_params
from common.train.workdir import to_fields, to_json, writing
from experiments.models.scene_encoder import (
    CONVOLUTIONS,
    ROLES,
    DistanceAttention,
    PlacesBlock,
    SceneEncoder,
    Seen,
    map_side,
)
from experiments.tasks.encoded_scenes import See

Batch = Mapping[str, Array]
SPLITS = ("train", "validation", "test", "encoder_train", "encoder_validation")
"""Sets of pictures, each with a seed of its own; the last two are the encoder's."""


class Judged(NamedTuple):
    """How right an encoder is at every place.

    Attributes:
        missed: cross-entropies of the names, nats.
        right: whether the likeliest name is right.
        there: whether an object stands there.
    """

    missed: Float[Array, "b s roles"]
    right: Bool[Array, "b s roles"]
    there: Bool[Array, "b s"]


@dataclasses.dataclass(frozen=True)
class SceneTask:
    """Names at every place of a map what stands there, and the nearest and furthest object.

    Attributes:
        model: the encoder.
        train_source: pictures to learn from; their questions are not looked at.
        eval_sources: the same to score on.
        metric: the score that chooses the best checkpoint.
    """

    model: SceneEncoder
    train_source: SortOfClevr
    eval_sources: Mapping[str, SortOfClevr]
    metric: str = "accuracy"

    def init(self, rng: PRNGKey) -> PyTree:
        """Draws the encoder's parameters."""
        return self.model.init(rng, jnp.asarray(self.train_source[0]["image"])[None])["params"]

    def see(self, params: PyTree, images: UInt8[Array, "b h w 3"]) -> Seen:
        """Returns what the encoder makes of pictures."""
        return cast(Seen, self.model.apply({"params": params}, jnp.asarray(images)))

    def loss(self, params: PyTree, batch: Batch, rng: PRNGKey) -> tuple[Array, dict[str, Array]]:
        """Returns the mean cross-entropies (nats) of all names, added up, and the accuracies.

        Those of the places of objects, and of what stands at the empty ones, which are many more.
        """
        del rng
        judged = self._judged(params, batch)
        there = judged.there[..., None]
        loss = jnp.mean(judged.missed, axis=(0, 1), where=there).sum()
        loss += jnp.mean(judged.missed[..., 0], where=~judged.there)
        accuracies = jnp.mean(judged.right, axis=(0, 1), where=there)
        found = dict(zip(ROLES, accuracies, strict=True))
        return loss, {"accuracy": accuracies.mean(), **found}

    def score(self, params: PyTree, batch: Batch) -> dict[str, Float[Array, "b"]]:
        """Returns means over the places of objects of each picture."""
        judged = self._judged(params, batch)
        there = judged.there[..., None]
        by_role = jnp.mean(judged.right, axis=1, where=there)
        return {
            "loss": jnp.mean(judged.missed, axis=(1, 2), where=there),
            "accuracy": by_role.mean(-1),
            **dict(zip(ROLES, by_role.T, strict=True)),
        }

    def _judged(self, params: PyTree, batch: Batch) -> Judged:
        """Compares what the encoder says with what the pictures show."""
        names, size = self.see(params, batch["image"]).names, self.train_source.settings.image_size
        things = things_at_places(batch, map_side(size), size)
        log_p = jax.nn.log_softmax(names)
        missed = -jnp.take_along_axis(log_p, things[..., None], -1)[..., 0]
        return Judged(missed, names.argmax(-1) == things, things[..., 0] > 0)


def things_at_places(batch: Batch, side: int, image_size: int) -> Int[Array, "b s roles"]:
    """Returns what `Seen.names` should say at every place of a map of the pictures.

    An object stands at the one place that its centre is in. Source: Zhou, Wang and Krähenbühl 2019,
    "Objects as points". Where nothing stands there is no nearest or furthest object either.
    """
    centres = jnp.asarray(batch["centres"])
    rows, columns = jnp.moveaxis(centres * side // image_size, -1, 0)
    squared = ((centres[:, :, None] - centres[:, None]) ** 2).sum(-1)
    itself = jnp.eye(COUNT, dtype=bool)[None]
    nearest = jnp.where(itself, squared.max() + 1, squared).argmin(-1)
    things = 1 + len(SHAPES) * jnp.arange(COUNT)[None] + batch["shapes"]
    roles = [things, *(jnp.take_along_axis(things, x, 1) for x in (nearest, squared.argmax(-1)))]
    empty = jnp.zeros((len(centres), side**2, len(ROLES)), things.dtype)
    pictures = jnp.arange(len(centres))[:, None]
    return empty.at[pictures, rows * side + columns].set(jnp.stack(roles, -1))


def encoder_run(config: ConfigDict) -> tuple[ConfigDict, Path]:
    """Returns the config of the encoder's own run, and the folder that runs share by it.

    Args:
        config: of an injection run: its seed, data (image_size, radius, seed) and encoder.
    """
    parts = ("model", "data", "optim", "train")
    own = ConfigDict({name: config.encoder[name].to_dict() for name in parts})
    own.seed = config.seed
    own.data.update({name: config.data[name] for name in ("image_size", "radius", "seed")})
    digest = hashlib.sha256(to_json(to_fields(own)).encode()).hexdigest()[:12]
    return own, Path(config.encoder.folder) / f"seed_{config.seed}-{digest}"


def make_task(config: ConfigDict) -> SceneTask:
    """Builds encoder and pictures from the config of an encoder's run.

    Raises:
        UserError: a value that cannot be used.
    """
    model, data = config.model, config.data
    if len(model.channels) != len(CONVOLUTIONS):
        raise UserError(
            f"encoder.model.channels is {tuple(model.channels)}; expected {len(CONVOLUTIONS)} "
            "numbers"
        )
    first, second, third = model.channels
    attention = DistanceAttention(model.heads, model.width // model.heads)
    block = PlacesBlock(attention, GatedMLP(model.hidden))
    encoder = SceneEncoder((first, second, third), model.width, block)
    return SceneTask(
        encoder,
        pictures(data, "encoder_train", data.train_count),
        {"validation": pictures(data, "encoder_validation", data.validation_count)},
    )


def pictures(data: ConfigDict, split: str, count: int, per_type: int = 1) -> SortOfClevr:
    """Returns the pictures of a split, with `per_type` questions of each type about each."""
    settings = SceneSettings(data.image_size, data.radius)
    return SortOfClevr(settings, count, per_type, len(SPLITS) * data.seed + SPLITS.index(split))


def train_encoder(config: ConfigDict) -> None:
    """Trains the encoder of an injection run, unless a run with the same one has done so.

    A process that finds another at it waits for its end.

    Raises:
        UserError: the folder of encoders cannot be written, and as for `fit`.
    """
    own, folder = encoder_run(config)
    lock = folder.with_suffix(".lock")
    with writing(lock):
        folder.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("w")
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # until the file is closed
        if not (folder / "result.json").exists():
            fit(make_task(own), own, folder)


def trained_encoder(config: ConfigDict) -> See:
    """Returns the features that the trained encoder of an injection run gives.

    Raises:
        UserError: it is not trained yet.
    """
    own, folder = encoder_run(config)
    if not (folder / "result.json").exists():
        raise UserError(f"{folder} holds no trained encoder; the mode train makes one")
    task = make_task(own)
    _, params = restore_params(task, own, folder)
    return jax.jit(lambda images: task.see(params, images).features)
