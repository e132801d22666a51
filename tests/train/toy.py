"""A task that learns in a moment, and ways to stop it."""

import hashlib
import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from common.train import NoProgress

FEATURES = 4


class ToySource:
    """Points and on which side of a plane they lie."""

    def __init__(self, count: int, seed: int):
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(count, FEATURES)).astype(np.float32)
        self.label = (self.x @ [1.0, -2.0, 0.5, 1.0] > 0).astype(np.int32)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.x.tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"x": self.x[index], "label": self.label[index]}


class GatheringSource(ToySource):
    """The same, gathered a batch at a time."""

    def __getitems__(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {"x": self.x[indices], "label": self.label[indices]}


class ToyTask:
    """Logistic regression on noisy inputs; the noise makes every step depend on its random key."""

    metric = "accuracy"

    def __init__(self, train_count: int = 50, hidden: int = 3):
        self.train_source = GatheringSource(train_count, seed=1)
        self.eval_sources = {"validation": GatheringSource(23, 2), "test": ToySource(17, 3)}
        self.hidden = hidden

    def init(self, rng: jax.Array) -> dict[str, Any]:
        first, second = jax.random.split(rng)
        return {
            "hidden": {"kernel": 0.5 * jax.random.normal(first, (FEATURES, self.hidden))},
            "head": {
                "kernel": 0.5 * jax.random.normal(second, (self.hidden, 2)),
                "bias": jnp.zeros(2),
            },
        }

    def logits(self, params: Any, x: jax.Array) -> jax.Array:
        hidden = jnp.tanh(x @ params["hidden"]["kernel"])
        return hidden @ params["head"]["kernel"] + params["head"]["bias"][None]

    def loss(self, params: Any, batch: Mapping[str, Any], rng: jax.Array):
        noise = 0.1 * jax.random.normal(rng, batch["x"].shape)
        scores = self.score(params, {**batch, "x": batch["x"] + noise})
        return scores["loss"].mean(), {"accuracy": scores["accuracy"].mean()}

    def score(self, params: Any, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        logits = self.logits(params, batch["x"])
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], axis=1)
        return {"loss": -chosen[:, 0], "accuracy": logits.argmax(-1) == batch["label"]}


def toy_config(**train: Any) -> ConfigDict:
    """Returns a config whose intervals do not line up with each other or with the epochs."""
    defaults = {
        "steps": 23,
        "batch_size": 8,
        "eval_batch_size": 10,
        "log_every": 5,
        "eval_every": 7,
        "checkpoint_every": 4,
        "keep_last": 2,
        "keep_best": 1,
        "max_skipped_steps": 0,
    }
    return ConfigDict(
        {
            "seed": 3,
            "optim": {
                "learning_rate": 0.05,
                "final_fraction": 0.1,
                "warmup_steps": 3,
                "weight_decay": 1e-4,
                "clip_norm": 1.0,
            },
            "mesh": {"data": 1},
            "train": defaults | train,
            "report": {"images": 4},
        }
    )


class At(NoProgress):
    """Does something after a given step."""

    def __init__(self, step: int, action: Callable[[], Any]):
        self.step, self.action = step, action
        self.messages: list[str] = []

    def update(self, step: int, values: Mapping[str, float] | None = None) -> None:
        if step == self.step:
            self.action()

    def message(self, text: str) -> None:
        self.messages.append(text)


class Crash(Exception):
    """Stands for anything that ends a run unprepared."""


def crash() -> None:
    raise Crash


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def curve(workdir: Path) -> list[dict[str, Any]]:
    """Reads the record of a run without its times."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [without_timing(json.loads(line)) for line in lines]


def without_timing(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "timing"}


def assert_alike(records: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Compares the records of runs that divide the same work otherwise."""
    assert [set(record) for record in records] == [set(record) for record in expected]
    for record, other in zip(records, expected, strict=True):
        for name in set(record) - {"split"}:
            np.testing.assert_allclose(record[name], other[name], rtol=1e-5, atol=1e-6)
