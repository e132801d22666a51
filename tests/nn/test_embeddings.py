"""Position codes before the first block, against their definitions."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from common.nn import LearnedMap, LearnedTime, NoEmbedding, SinusoidalTime, rotate_space, time_code

CHANNELS, SIZE = 6, (3, 4)


def frames(steps: int) -> Any:
    shape = (2, steps, *SIZE, CHANNELS)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(0, 3))
def embed(module, params, x, steps):
    return module.apply({"params": params}, x, steps)


def shapes_of(module: Any, steps: int) -> dict[str, tuple[int, ...]]:
    variables = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, steps), frames(steps))
    return {name: leaf.shape for name, leaf in variables.get("params", {}).items()}


def test_nothing_is_added_where_nothing_is_asked_for() -> None:
    x = frames(3)
    assert shapes_of(NoEmbedding(), 3) == {}
    assert NoEmbedding()(x, 3) is x


def test_learned_map_is_added_to_every_frame() -> None:
    assert shapes_of(LearnedMap(), 3) == {"pos_embed": (1, 1, *SIZE, CHANNELS)}
    x, table = frames(3), frames(1)[:1] + 2.0
    np.testing.assert_allclose(embed(LearnedMap(), {"pos_embed": table}, x, 3), x + table)
    assert embed(LearnedMap(), {"pos_embed": table}, x[:, :1], 3).shape[1] == 1


@pytest.mark.parametrize("steps", [1, 4, 5, 9])
def test_learned_times_are_rows_or_lie_between_rows(steps: int) -> None:
    """Beyond its five rows the table is stretched: first and last row stay the ends."""
    table = np.random.default_rng(1).standard_normal((5, CHANNELS)).astype(np.float32)
    assert shapes_of(LearnedTime(5), steps) == {"temporal_embed": (5, CHANNELS)}
    x = frames(steps)
    out = embed(LearnedTime(5), {"temporal_embed": table}, x, steps)
    added = np.asarray(out - rotate_space(x, steps))
    places = np.linspace(0, 4, steps) if steps > 5 else np.arange(steps)
    rows = [np.interp(places, np.arange(5), column) for column in table.T]
    expected = np.broadcast_to(np.stack(rows, -1)[None, :, None, None], x.shape)
    np.testing.assert_allclose(added, expected, atol=2e-6)


def test_sinusoidal_times_are_the_time_code() -> None:
    x = frames(3)
    added = embed(SinusoidalTime(), {}, x, 3) - rotate_space(x, 3)
    code = np.asarray(time_code(3, CHANNELS))[None, :, None, None]
    np.testing.assert_allclose(added, np.broadcast_to(code, x.shape), atol=2e-6)


@pytest.mark.parametrize(
    ("module", "params"),
    [(SinusoidalTime(), {}), (LearnedTime(4), {"temporal_embed": np.ones((4, 6), np.float32)})],
)
def test_still_image_becomes_its_repetition(module: Any, params: dict) -> None:
    still = frames(1)
    repeated = embed(module, params, still.repeat(3, axis=1), 3)
    np.testing.assert_array_equal(embed(module, params, still, 3), repeated)
