"""Pathfinder as a task of the training loop."""

import dataclasses
from collections.abc import Mapping
from typing import cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from common.array_types import Array, Float, Int, PRNGKey, PyTree, UInt8
from common.data import normalise_grey
from common.data.pathfinder import (
    SPLITS,
    PathfinderImages,
    PathfinderSettings,
    load_or_generate,
    print_progress,
)
from common.data.pathfinder.sources import hold_in_memory, open_sources
from common.data.pipeline import Source
from cssm import SpectralClassifier
from experiments.models.vision import make_model

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class PathfinderTask:
    """Says of each image whether its two discs end one contour.

    Attributes:
        model: classifier of images (b, s, s, 3), logits (b, 2).
        train_source: images to learn from.
        eval_sources: images to score on, 'validation' and 'test'.
        metric: the score that chooses the best checkpoint.
    """

    model: nn.Module
    train_source: Source
    eval_sources: Mapping[str, PathfinderImages]
    metric: str = "accuracy"

    @property
    def spreads(self) -> tuple[str, ...]:
        """The mesh axes besides those of the batch that the model is spread over."""
        return ("time", "frequency") if isinstance(self.model, SpectralClassifier) else ()

    def preprocess(
        self, images: UInt8[Array, "b s s"] | Float[Array, "b s s 3"]
    ) -> Float[Array, "b s s 3"]:
        """Returns the images as the model takes them; those with three channels are so already."""
        return images if images.ndim == 4 else normalise_grey(images)

    def init(self, rng: PRNGKey) -> PyTree:
        """Draws the model's parameters."""
        size = next(iter(self.eval_sources.values())).images.shape[-1]
        return self.model.init(rng, jnp.zeros((1, size, size, 3)))["params"]

    def logits(
        self, params: PyTree, images: UInt8[Array, "b s s"] | Float[Array, "b s s 3"]
    ) -> Float[Array, "b 2"]:
        """Applies the model to images as they are stored."""
        return cast(Array, self.model.apply({"params": params}, self.preprocess(images)))

    def loss(self, params: PyTree, batch: Batch, rng: PRNGKey) -> tuple[Array, dict[str, Array]]:
        """Returns the mean cross-entropy (nats) and the accuracy over a batch."""
        del rng
        scores = self.score(params, batch)
        return scores["loss"].mean(), {"accuracy": scores["accuracy"].mean()}

    def score(self, params: PyTree, batch: Batch) -> dict[str, Float[Array, "b"]]:
        """Returns each image's cross-entropy (nats) and whether it was told right."""
        logits = self.logits(params, batch["image"])
        return classification_scores(logits, batch["label"])


def classification_scores(
    logits: Float[Array, "b k"], labels: Int[Array, "b"]
) -> dict[str, Float[Array, "b"]]:
    """Returns cross-entropy (nats) and correctness (0 or 1) of each example."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return {"loss": loss, "accuracy": (logits.argmax(-1) == labels).astype(jnp.float32)}


def make_task(config: ConfigDict) -> PathfinderTask:
    """Builds model and data from a config, generating images that are not on disk yet.

    Raises:
        UserError: a value in `config.model` or `config.data` that cannot be used.
    """
    model = make_model(config.model)
    fields = {f.name for f in dataclasses.fields(PathfinderSettings)}
    settings = PathfinderSettings(**{k: v for k, v in config.data.items() if k in fields})
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *2 * (settings.image_size,), 3)))
    data = config.data
    if data.source == "generate":
        sources = {split: _generate(data, settings, split) for split in SPLITS}
        return PathfinderTask(model, sources.pop("train"), sources)
    counts = {split: data[f"{split}_count"] for split in SPLITS}
    opened = open_sources(data.source, data.path, counts, settings.image_size, data.seed)
    train = opened.pop("train")
    held_out = {
        split: hold_in_memory(source, settings) for split, source in opened.items() if len(source)
    }
    return PathfinderTask(model, train, held_out)


def _generate(data: ConfigDict, settings: PathfinderSettings, split: str) -> PathfinderImages:
    progress = print_progress(f"generating {split} data")
    count = data[f"{split}_count"]
    return load_or_generate(settings, split, count, data.seed, data.cache, progress)
