"""What the mechanisms of a vision-language model do: modulation, gates, attention to the image."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from common.analysis import count_flops
from common.array_types import Array, Float, Int, PyTree
from common.data.pipeline import Batch
from common.data.sort_of_clevr import TYPES, measure_floors
from common.data.sort_of_clevr.questions import QUESTION_LENGTH
from experiments.models.injection import VisionLanguageModel
from experiments.tasks.injection import GROUPS, InjectionTask
from experiments.tasks.scene_encoder import encoder_run, make_task

SOWN = "intermediates"
"""What Flax calls that which modules sow."""


class Modulation(NamedTuple):
    """How much a FiLM layer scales and shifts what it is given, by type of question.

    Attributes:
        scaling: root mean square of (gamma - 1) x at the answer's token, over that of x.
        shifting: that of beta, over that of x.
    """

    scaling: Float[np.ndarray, "types"]
    shifting: Float[np.ndarray, "types"]

    @property
    def shift_share(self) -> Float[np.ndarray, "types"]:
        """Returns the shift's part of both: above one half where shifting dominates."""
        return self.shifting / np.maximum(self.scaling + self.shifting, 1e-30)


def modulations(task: InjectionTask, params: PyTree, batch: Batch) -> dict[str, Modulation]:
    """Measures every FiLM layer on a batch, by its layer and, where there are several, its part."""
    named = intermediates(task, params, batch)
    layers = {path.removesuffix("/gamma") for path in named if path.endswith("/gamma")}
    questions = batch["tokens"].shape[1:]
    found = {}
    for path in sorted(layers):
        x = np.asarray(named[f"{path}/input"], np.float64)
        parts = [np.asarray(named[f"{path}/{name}"], np.float64) for name in ("gamma", "beta")]
        gamma, beta = (part.reshape(-1, 1, x.shape[-1]) for part in parts)  # members one by one
        x = x.reshape(len(x), *questions[:1], -1, x.shape[-1])[:, :, -1]  # the answer's token
        sizes = [_by_type(y) for y in ((gamma - 1) * x, np.broadcast_to(beta, x.shape), x)]
        found[short_name(path)] = Modulation(sizes[0] / sizes[2], sizes[1] / sizes[2])
    return found


def _by_type(x: Float[np.ndarray, "b q c"]) -> Float[np.ndarray, "types"]:
    """Returns root mean squares over all but the type of the question."""
    return np.sqrt((x.reshape(len(x), len(TYPES), -1) ** 2).mean((0, 2)))


def image_attention(
    task: InjectionTask, params: PyTree, batch: Batch
) -> dict[str, Float[np.ndarray, "b n h w"]]:
    """Returns how attentions look at the places of the image, by layer, in the mean of their heads.

    n is the questions, which look from their answer's token, or the learned queries of a resampler.
    What sees the tokens of a resampler, and not the places themselves, is left out.
    """
    count, length = batch["tokens"].shape[1], batch["tokens"].shape[2] - 1
    side = task.model.side
    found = {}
    for path, weights in intermediates(task, params, batch).items():
        if not path.endswith("weights"):
            continue
        maps = np.asarray(weights).mean(1) if weights.ndim == 4 else np.asarray(weights)
        seen = _seen_places(maps, side**2, task.model.image_tokens, count * length)
        if seen is None:
            continue
        if maps.shape[1] >= count * length:  # a row for every word
            seen = seen.reshape(len(seen), count, length, -1)[:, :, -1]
        found[short_name(path)] = seen.reshape(*seen.shape[:2], side, side)
    return found


def _seen_places(
    maps: Float[np.ndarray, "b r s"], places: int, image_tokens: int, words: int
) -> Float[np.ndarray, "b n places"] | None:
    """Returns the part of attention maps that falls on the image's places, None if none does."""
    rows, columns = maps.shape[1:]
    if image_tokens >= places and rows == columns == image_tokens + words:  # tokens in the text
        return maps[:, image_tokens:, image_tokens - places : image_tokens]
    if rows == words and columns == words + places:  # the text first, then the image
        return maps[..., words:]
    if columns >= places and rows != columns:  # the image alone, or before learned queries
        return maps[..., :places]
    return None


def short_name(path: str) -> str:
    """Returns a name for what stands at a path: 'mechanism 2', 'layer 3', 'resampler 0'."""
    numbers = re.findall(r"(mechanisms|layers|blocks|films)_(\d+)", path)
    if not numbers:
        return "resampler"
    names = {"mechanisms": "layer", "layers": "layer", "blocks": "block", "films": "pathway"}
    return ", ".join(f"{names[kind]} {number}" for kind, number in numbers)


def first_pictures(task: InjectionTask, count: int) -> Int[np.ndarray, "b"]:
    """Returns the numbers of the first test pictures, `count` or as many as there are."""
    return np.arange(min(count, len(task.eval_sources["test"])))


def gate_histories(records: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list, list]]:
    """Returns steps and values of every gate over training, by its layer and name."""
    found: dict[str, tuple[list, list]] = {}
    for record in records:
        for name, value in record.items():
            if name.endswith("gate") and record["split"] == "train":
                steps, values = found.setdefault(name, ([], []))
                steps.append(record["step"])
                values.append(value)
    return found


def floors(task: InjectionTask) -> dict[str, dict[str, float]]:
    """Returns the floors of the test data, by name and type or group of questions."""
    found = measure_floors(task.eval_sources["test"].pictures)._asdict()
    groups = {"accuracy": TYPES, **GROUPS}
    for values in found.values():
        values |= {
            group: float(np.mean([values[name] for name in names]))
            for group, names in groups.items()
        }
    return found


def intermediates(task: InjectionTask, params: PyTree, batch: Batch) -> dict[str, Any]:
    """Returns all that the model sows on a batch, by path."""
    sown = _sown(task.model, params, *task.inputs(batch))
    return {"/".join(path): cast(tuple, leaf)[0] for path, leaf in flatten_dict(sown).items()}


@functools.partial(jax.jit, static_argnums=0)
def _sown(model: VisionLanguageModel, params: PyTree, features: Array, questions: Array) -> PyTree:
    """Is compiled once for all that is measured of a model on as many pictures."""
    rngs = {"slots": jax.random.key(0)}
    _, state = model.apply({"params": params}, features, questions, rngs=rngs, mutable=[SOWN])
    return cast(dict, state)[SOWN]


def flops(task: InjectionTask) -> float:
    """Returns the floating-point operations of all answers to one test picture's questions.

    The encoder's are not among them, see `encoder_flops`.
    """
    params = jax.eval_shape(task.init, jax.random.key(0))
    features = jax.ShapeDtypeStruct((1, task.model.side**2, task.model.width), np.float32)
    tokens = jax.ShapeDtypeStruct((1, len(TYPES), QUESTION_LENGTH + 1), np.int32)
    return count_flops(task.score, params, {"features": features, "tokens": tokens})


def encoder_flops(config: ConfigDict) -> float:
    """Returns the floating-point operations of the features of one picture."""
    task = make_task(encoder_run(config)[0])
    params = jax.eval_shape(task.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, config.data.image_size, config.data.image_size, 3), np.uint8)
    return count_flops(lambda p, x: task.see(p, x).features, params, image)
