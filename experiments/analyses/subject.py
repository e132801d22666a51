"""What is taken apart: a model from a checkpoint, and images with what is known of them."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from common.array_types import Array, PyTree
from common.checkpoints import load_checkpoint
from common.data import read_records
from common.data.images import grey_bytes
from common.data.pathfinder import (
    PathfinderImages,
    PathfinderSettings,
    draw_images,
    draw_scene,
    find_markers,
    split_seed,
)
from common.errors import DataError, UserError
from common.files import StrPath
from common.train import Workdir
from cssm.blocks.spectral import SpectralBlock
from cssm.model import SpectralClassifier
from cssm.upstream import content_to_model
from experiments.models.vision import make_model
from experiments.reports.measurements import find_anatomy, in_batches, predict
from experiments.reports.run import Run
from experiments.tasks.pathfinder import PathfinderTask

BATCH = 64
"""Images at once in a forward pass."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model and the images that it is examined on.

    Attributes:
        checkpoint: where the model came from.
        step: the training step that it is of, where the checkpoint says so.
        run: model, images, answers and anatomy, as the sections of a training report see them.
        origin: what the images are, in words.
        scenes: the generator's seed of the images, whose geometry is known then; else None.
        best: whether the step is the one that the run's result.json is of.
    """

    checkpoint: Path
    step: int | None
    run: Run
    origin: str
    scenes: int | None
    best: bool = False

    @property
    def model(self) -> Any:
        """Returns the model."""
        return self.run.task.model

    @property
    def params(self) -> PyTree:
        """Returns its parameters."""
        return self.run.params

    @property
    def images(self) -> np.ndarray:
        """Returns the images, (n, s, s) uint8; neighbours have different labels as a rule."""
        return self.run.data.images

    @property
    def labels(self) -> np.ndarray:
        """Returns (n,) 1 where the discs end one contour, else 0."""
        return self.run.predictions.labels

    @property
    def settings(self) -> PathfinderSettings:
        """Returns what the images are made of, or are taken to be made of."""
        data: Any = self.run.data
        return data.settings

    @property
    def spectral_blocks(self) -> list[str]:
        """Returns the names of the blocks that are linear recurrences in the spectrum."""
        model = self.model
        if not isinstance(model, SpectralClassifier):
            return []
        return [str(block.name) for block in model.blocks if isinstance(block, SpectralBlock)]

    def frames(self, numbers: Any) -> Array:
        """Returns some of the images as the model takes them."""
        return self.run.task.preprocess(self.images[numbers])  # type: ignore[arg-type]

    def apply(self, params: PyTree, x: Array) -> Array:
        """Returns the logits (b, 2) of images or videos as the model takes them."""
        return self.model.apply({"params": params}, x)

    def probability(self, images: np.ndarray) -> np.ndarray:
        """Returns the probability (n,) that the model gives to a connection in any images.

        Args:
            images: (n, s, s) uint8.
        """
        return in_batches(self._connected, self.params, (images,), BATCH)

    @functools.cached_property
    def _connected(self) -> Callable[..., Array]:
        """Returns the compiled function behind `probability`."""
        return jax.jit(
            lambda p, x: jax.nn.softmax(self.apply(p, self.run.task.preprocess(x)))[:, 1]
        )

    def measure(
        self, function: Callable[..., Array], *arrays: np.ndarray, batch: int = BATCH
    ) -> np.ndarray:
        """Compiles `function(params, *arrays)` and calls it on so many rows at once."""
        return in_batches(jax.jit(function), self.params, arrays, batch)

    def examples(self, count: int = 1) -> np.ndarray:
        """Returns numbers of images of both kinds, `count` connected ones first.

        The first ones that are answered rightly; where there are too few, others.
        """
        wrong = ~self.run.predictions.correct
        rows = [np.flatnonzero(self.labels == label) for label in (1, 0)]
        return np.concatenate([of[np.argsort(wrong[of], kind="stable")][:count] for of in rows])

    def scene(self, number: int) -> Any:
        """Returns the geometry of an image.

        Raises:
            UserError: the images were not generated here.
        """
        if self.scenes is None:
            raise UserError("the geometry of these images is not known; use generated ones")
        return draw_scene(self.settings, self.scenes, number)


def open_subject(
    checkpoint: StrPath, data: StrPath | None = None, count: int = 256, **known: Any
) -> Subject:
    """Reads a model and finds images for it.

    Args:
        checkpoint: a pickle, a run's folder (its best step is read, or the newest while the run
            goes on), a folder of Orbax, or a safetensors file.
        data: TFRecord files, a folder of PNG files or an `.npz` file, see
            `common.data.read_records`. By default the test images of the checkpoint's run are
            generated, or for foreign checkpoints images of contours of 14 paddles, as in the
            public generator.
        count: number of images, half of them of each label.
        **known: arguments of `SimpleCSSM` that a foreign checkpoint does not tell, see
            `cssm.checkpoint_to_model`.

    Raises:
        UserError: the checkpoint or the data cannot be used, or the count is odd or too small.
    """
    if count < 8 or count % 2:
        raise UserError(f"the number of images is {count}; it must be even, and 8 or more")
    best = _best_step(Path(checkpoint))
    content = load_checkpoint(best or checkpoint)
    model, params, config = _model_of(content, str(checkpoint), known)
    settings = _settings_of(config, params)
    scenes = None
    if data is None:
        seed = config.data.seed if "data" in config and "seed" in config.data else 0
        scenes = split_seed(seed, "test")
        images = _generated(settings, scenes, count)
        origin = f"the first {count} test images of the generator's seed {seed}"
    else:
        images = _read(data, settings, count)
        origin = f"{len(images)} images of {data}"
    task = PathfinderTask(model, images, {"test": images})
    _check_fit(task, params, settings.image_size, str(checkpoint))
    predictions = predict(task, params, images, BATCH)
    anatomy = find_anatomy(task, params)
    run = Run(config, Path("."), params, [], {}, {}, task, "test", predictions, anatomy)
    step = content.get("step")
    step = None if step is None else int(step)
    return Subject(Path(checkpoint), step, run, origin, scenes, best is not None)


def _best_step(folder: Path) -> Path | None:
    """Returns the checkpoint that the result of a finished run is of, or None."""
    result = Workdir(folder).result() or {}
    step = folder / "checkpoints" / str(result.get("best_step"))
    return step if step.is_dir() else None


def _model_of(
    content: dict[str, Any], name: str, known: dict[str, Any]
) -> tuple[nn.Module, PyTree, ConfigDict]:
    """Returns the model, its parameters and the config of its run, empty where there is none."""
    if content.get("batch_stats"):
        raise DataError(f"{name}: models with batch norms are not taken apart; use layer norms")
    config = ConfigDict(content.get("config") or {})
    if "params" not in content:
        raise DataError(f"{name}: has no 'params'; its keys are {sorted(map(str, content))}")
    if config and config.model.name != "simple_cssm":
        return make_model(config.model), content["params"], config
    try:
        model, variables = content_to_model(content, name, **known)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}") from error
    config.model = ConfigDict(config.get("model", {"name": type(model.blocks[0]).__name__}))
    return model, variables["params"], config


def _settings_of(config: ConfigDict, params: PyTree) -> PathfinderSettings:
    """Returns the settings of the run's images, or for foreign checkpoints of the public ones."""
    fields = {field.name for field in dataclasses.fields(PathfinderSettings)}
    if "data" in config:
        return PathfinderSettings(**{k: v for k, v in config.data.items() if k in fields})
    settings = PathfinderSettings(
        image_size=_image_size(params), contour_length=14, layout="reference"
    )
    config.data = ConfigDict(dataclasses.asdict(settings))
    return settings


def _image_size(params: PyTree) -> int:
    """Returns the side of the square images that a foreign checkpoint's gates are made for."""
    gate = params["cssm_0"].get("C_gate")
    if gate is None:
        return 224
    count = gate["bias"].shape[0]
    side = round(math.sqrt(2 * count + 1) - 1)
    near = [n for n in range(max(1, side - 2), side + 3) if n * (n // 2 + 1) == count]
    return 4 * near[0] if near else 224


def _generated(settings: PathfinderSettings, seed: int, count: int) -> PathfinderImages:
    drawn = draw_images(settings, seed, 0, count)
    return PathfinderImages(drawn.images, drawn.labels, drawn.markers, drawn.headings, settings)


def _read(data: StrPath, settings: PathfinderSettings, count: int) -> PathfinderImages:
    """Reads as many images of each label, the first ones, in turns."""
    size = settings.image_size
    found: dict[int, list[np.ndarray]] = {0: [], 1: []}
    for image, label in read_records(data, size):
        if label in found and len(found[label]) < count // 2:
            found[label].append(grey_bytes(image))
        if min(map(len, found.values())) == count // 2:
            break
    least = min(map(len, found.values()))
    if least < 4:
        raise DataError(f"{data}: {least} images of one label; expected 4 or more of both")
    images = np.stack([found[label][i] for i in range(least) for label in (1, 0)])
    labels = np.tile(np.array([1, 0], np.uint8), least)
    scale = size / settings.window
    markers = find_markers(images, settings.marker_radius * scale) / scale
    return PathfinderImages(images, labels, markers, None, settings)


def _check_fit(task: PathfinderTask, params: PyTree, size: int, name: str) -> None:
    """Checks that the model takes images of this size.

    Raises:
        DataError: it does not.
    """
    try:
        jax.eval_shape(task.logits, params, np.zeros((1, size, size), np.uint8))
    except Exception as error:  # Flax names the parameter
        reason = str(error).splitlines()[0]
        raise DataError(f"{name}: does not take images of {size} pixels: {reason}") from error
