"""Steps whose loss or gradient is not finite: left out, counted, and the end of a run if many."""

from typing import Self

import jax
import jax.numpy as jnp
from flax import struct

from common.array_types import Array, PyTree
from common.checkpoints.digests import named_leaves

CHECK_EVERY = 5
"""Number of steps between two looks at the count of skipped steps."""


class Skips(struct.PyTreeNode):
    """Counts skipped steps on the device, and keeps what the last of them was.

    Attributes:
        count: Number of skipped steps of the run.
        recent: Number of those since the last log point.
        step: The last skipped step, counted from 1; 0 if there was none.
        loss: Its loss.
        gradient_norm: Its global gradient norm.
    """

    count: Array
    recent: Array
    step: Array
    loss: Array
    gradient_norm: Array

    @classmethod
    def none(cls) -> Self:
        """Returns the counts of a run that has skipped nothing."""
        zero = jnp.zeros((), jnp.int32)
        value = jnp.zeros((), jnp.float32)
        return cls(count=zero, recent=zero, step=zero, loss=value, gradient_norm=value)

    def noting(self, skipped: Array, begins: Array, step: Array, values: dict[str, Array]) -> Self:
        """Returns the counts after `step`.

        Args:
            skipped: Whether the step is skipped.
            begins: Whether it is the first after a log point.
            step: Its number.
            values: Has its 'loss' and 'gradient_norm'.
        """
        loss, norm = (values[name].astype(jnp.float32) for name in ("loss", "gradient_norm"))
        return self.replace(
            count=self.count + skipped,
            recent=jnp.where(begins, 0, self.recent) + skipped,
            step=jnp.where(skipped, step, self.step),
            loss=jnp.where(skipped, loss, self.loss),
            gradient_norm=jnp.where(skipped, norm, self.gradient_norm),
        )

    def describe(self) -> str:
        """Says what was wrong with the last skipped step."""
        return (
            f"step {int(self.step)} is not finite (loss {float(self.loss):.6g}, "
            f"gradient norm {float(self.gradient_norm):.6g})"
        )


class SkipWatch:
    """Looks at the count of skipped steps late enough that no step waits for it.

    Every few steps it puts a copy of the count aside, and reads the one from a few steps before.
    """

    def __init__(self):
        self._earlier: Array | None = None

    def count(self, step: int, skips: Skips) -> int:
        """Returns the number of skipped steps as of 5 steps ago; 0 between two looks."""
        if step % CHECK_EVERY:
            return 0
        earlier, self._earlier = self._earlier, jnp.copy(skips.count)
        return 0 if earlier is None else int(earlier)


def nonfinite_names(tree: PyTree) -> list[str]:
    """Names the leaves of floats that hold infinity or NaN."""
    flags = jax.device_get(_finite_flags(tree))
    return [name for name, flag in named_leaves(flags).items() if not flag]


@jax.jit
def _finite_flags(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), tree)
