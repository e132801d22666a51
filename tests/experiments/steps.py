"""A training step of any Pathfinder config, in shapes alone."""

import jax
import numpy as np

from common.data.pathfinder import PathfinderImages
from common.train import make_init, make_optimizer, make_train_step, metric_names
from experiments.models.vision import make_model
from experiments.tasks.pathfinder import PathfinderTask


def blank_task(config):
    """Makes the task of a config over blank images that take no memory."""
    size = config.data.image_size
    blank = PathfinderImages(
        np.broadcast_to(np.uint8(0), (2, size, size)),
        np.zeros(2, np.uint8),
        np.zeros((2, 2, 2), np.float32),
        np.zeros((2, 2), np.float32),
    )
    return PathfinderTask(make_model(config.model), blank, {"validation": blank, "test": blank})


def step_shapes(config):
    """Returns the shapes of the state after a step, having checked that they stay as they were."""
    task = blank_task(config)
    optimizer, _ = make_optimizer(config.optim, config.train.steps)
    size, batch_size = config.data.image_size, config.train.batch_size
    batch = {
        "image": jax.ShapeDtypeStruct((batch_size, size, size), np.uint8),
        "label": jax.ShapeDtypeStruct((batch_size,), np.int32),
    }
    init = make_init(task, optimizer, metric_names(task, batch))
    before = jax.eval_shape(init, jax.random.key(0))
    after = jax.eval_shape(make_train_step(task, optimizer, 10), before, batch)
    same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, before, after)
    assert all(jax.tree.leaves(same))
    return after
