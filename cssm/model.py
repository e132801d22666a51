"""A classifier of images and videos: stem, state space blocks, readout."""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float, Int, PyTree, Time
from cssm.blocks.base import StateSpaceBlock


class StreamState(NamedTuple):
    """What a model keeps of the frames so far.

    Attributes:
        time: their number.
        blocks: state of each block.
    """

    time: Int[Array, ""]
    blocks: tuple[PyTree, ...]


class SpectralClassifier(nn.Module):
    """Stem, position embedding, residual state space blocks x + block(x), readout.

    Whole sequences go through `__call__`, in parallel over time where the hardware allows. A
    sequence that comes in pieces goes through `step`, with the same numbers:

        state = model.init_state(frames)
        logits, state = model.apply(variables, frames, state, method="step")

    Attributes:
        stem: images to maps.
        embedding: what is added to the maps before the first block.
        blocks: state space blocks, named cssm_0, cssm_1, ...
        readout: frames to logits.
        seq_len: time steps that a still image is shown for.
        last_only: whether the readout gets the last frame alone.
    """

    stem: nn.Module
    embedding: nn.Module
    blocks: tuple[StateSpaceBlock, ...]
    readout: nn.Module
    seq_len: int
    last_only: bool = True

    preserve_adopted_names: ClassVar[bool] = True  # Flax: keep the blocks' own names

    def setup(self) -> None:
        """Puts the parameters of all parts but the blocks at the top level of the tree."""
        nn.share_scope(self, self.stem)
        nn.share_scope(self, self.embedding)
        nn.share_scope(self, self.readout)

    def __call__(
        self,
        x: Float[Array, "b H W 3"] | Float[Array, "b t H W 3"],
        training: bool = False,
    ) -> Float[Array, "b classes"]:
        """Returns the logits.

        Args:
            x: still images, each shown for `seq_len` steps, or videos with their own t.
            training: whether batch norms, if there are any, learn from this batch; nothing else
                depends on it.

        Raises:
            ValueError: x is neither.
        """
        frames = as_frames(x)
        steps = self.seq_len if x.ndim == 4 else x.shape[1]
        return self._run(frames, steps, training=training)[0]

    def step(
        self,
        x: Float[Array, "b H W 3"] | Float[Array, "b t H W 3"],
        state: StreamState | None = None,
    ) -> tuple[Float[Array, "b classes"], StreamState]:
        """Takes the next frames of a video; to be called through `apply`, with method="step".

        Compiled once, it serves any number of pieces of one length. Batch norms use their running
        statistics. The position code 'separate' knows `max_seq_len` times, and gives NaN beyond.

        Args:
            x: one frame of each video, or t of them.
            state: from the frames before, or `init_state`; None before the first frame.

        Returns:
            The logits that the model gives for all frames so far, and the state.

        Raises:
            ValueError: x is neither, or the readout wants all frames.
        """
        if not self.last_only:
            raise ValueError(
                "a readout of all frames keeps none of them; step needs readout 'last'"
            )
        frames = as_frames(x)
        time, states = (0, None) if state is None else state
        logits, states = self._run(frames, frames.shape[1], states, time)
        return logits, StreamState(jnp.asarray(time + frames.shape[1], jnp.int32), states)

    @nn.nowrap
    def init_state(self, x: Array | jax.ShapeDtypeStruct) -> StreamState:
        """Returns the state before the first frame, all zeros; needs no parameters.

        Args:
            x: frames as `step` takes them, any number of them, or their shape and dtype.
        """
        (_, state), _ = jax.eval_shape(
            lambda x: self.init_with_output(jax.random.key(0), x, method="step"), x
        )
        return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), state)

    def _run(
        self,
        frames: Array,
        steps: int,
        states: tuple[PyTree, ...] | None = None,
        start: Time | None = None,
        training: bool = False,
    ) -> tuple[Array, tuple[PyTree, ...]]:
        """Returns logits and the states of the blocks; `start` is None for a whole sequence."""
        embed: Any = self.embedding
        read: Any = self.readout
        stem: Any = self.stem
        x = embed(stem(frames, training), steps, start)
        self.sow("intermediates", "pre_cssm", x)
        begin, ends = 0 if start is None else start, []
        for i, block in enumerate(self.blocks):
            state = None if states is None else states[i]
            last_only = self.last_only and block is self.blocks[-1]
            update, end = block.advance(x, steps, state, begin, last_only)
            x = x[:, -1:] + update if update.shape[1] < x.shape[1] else x + update
            ends.append(end)
        self.sow("intermediates", "post_cssm", x)
        return read(x[:, -1:] if self.last_only else x, training), tuple(ends)


def as_frames(x: Array) -> Float[Array, "b t H W 3"]:
    """Returns videos as they are, and still images as videos of one frame.

    Raises:
        ValueError: x is neither.
    """
    if x.ndim not in (4, 5):
        raise ValueError(f"expected images (b, H, W, 3) or videos (b, t, H, W, 3); got {x.shape}")
    return x[:, None] if x.ndim == 4 else x
