"""A classifier of images and videos: stem, state space blocks, readout."""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.kernels.spectral import Origin
from common.nn import Rotary, no_rotation, rotate_space, rotate_spacetime, rotate_time
from cssm.blocks import TransformerBlock
from cssm.readout import PooledReadout
from cssm.stem import ConvStem

POSITIONS: dict[str, Rotary] = {
    "none": no_rotation,
    "spatial_only": rotate_space,
    "spatiotemporal": rotate_spacetime,
    "temporal": rotate_time,
}
BLOCKS = {"transformer": TransformerBlock}
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": jax.nn.gelu,
    "relu": jax.nn.relu,
    "softplus": jax.nn.softplus,
}
POOLS = {"max": jnp.max, "mean": jnp.mean}


class SpectralClassifier(nn.Module):
    """Stem, residual state space blocks x + block(x), readout of the last frame.

    Attributes:
        stem: images to maps.
        blocks: state space blocks, named cssm_0, cssm_1, ...
        readout: last map to logits.
        seq_len: time steps that a still image is shown for.
    """

    stem: nn.Module
    blocks: tuple[nn.Module, ...]
    readout: nn.Module
    seq_len: int

    preserve_adopted_names: ClassVar[bool] = True  # Flax: keep the blocks' own names

    def setup(self) -> None:
        """Puts the parameters of stem and readout at the top level of the tree."""
        nn.share_scope(self, self.stem)
        nn.share_scope(self, self.readout)

    def __call__(
        self,
        x: Float[Array, "b H W 3"] | Float[Array, "b t H W 3"],
        training: bool = False,
    ) -> Float[Array, "b classes"]:
        """Returns the logits.

        Args:
            x: still images, each shown for `seq_len` steps, or videos with their own t.
            training: unused; no layer behaves differently in training.
        """
        del training
        if x.ndim not in (4, 5):
            raise ValueError(
                f"expected images (b, H, W, 3) or videos (b, t, H, W, 3); got {x.shape}"
            )
        still = x.ndim == 4
        steps = self.seq_len if still else x.shape[1]
        x = self.stem(x[:, None] if still else x)
        self.sow("intermediates", "pre_cssm", x)
        for block in self.blocks:
            last_only = block is self.blocks[-1]
            update = block(x, steps, last_only)
            x = x[:, -update.shape[1] :] + update
        self.sow("intermediates", "post_cssm", x)
        return self.readout(x[:, -1])


def SimpleCSSM(
    num_classes: int = 2,
    embed_dim: int = 64,
    depth: int = 1,
    cssm_type: str = "transformer",
    kernel_size: int = 15,
    pos_embed: str = "spatiotemporal",
    seq_len: int = 8,
    *,
    act: str = "softplus",
    pool: str = "mean",
    origin: Origin = "centre",
    dtype: str = "float32",
) -> SpectralClassifier:
    """Builds the classifier of the notebooks from names.

    Args:
        num_classes: number of logits.
        embed_dim: width of stem and blocks; even.
        depth: number of blocks.
        cssm_type: the block, one of `BLOCKS`.
        kernel_size: side of the blocks' spatial kernels, in cells of the map.
        pos_embed: position code inside the blocks, one of `POSITIONS`.
        seq_len: time steps that a still image is shown for.
        act: nonlinearity of stem and readout, one of `ACTIVATIONS`.
        pool: pooling over space in the readout, one of `POOLS`.
        origin: layout of the kernels; 'upstream' for the public code's checkpoints.
        dtype: compute dtype, 'float32' or 'bfloat16'; parameters are float32.

    Raises:
        ValueError: a name that is not in its list, or a size below 1.
    """
    sizes = {"num_classes": num_classes, "embed_dim": embed_dim, "depth": depth}
    for name, size in (sizes | {"kernel_size": kernel_size, "seq_len": seq_len}).items():
        if size < 1:
            raise ValueError(f"{name} is {size}; expected 1 or more")
    block = _choose("cssm_type", cssm_type, BLOCKS)
    rotary = _choose("pos_embed", pos_embed, POSITIONS)
    activation = _choose("act", act, ACTIVATIONS)
    compute = _choose("dtype", dtype, {"bfloat16": jnp.bfloat16, "float32": jnp.float32})
    blocks = tuple(
        block(embed_dim, kernel_size, rotary, origin, compute, name=f"cssm_{i}")
        for i in range(depth)
    )
    return SpectralClassifier(
        stem=ConvStem(embed_dim, activation, compute),
        blocks=blocks,
        readout=PooledReadout(num_classes, activation, _choose("pool", pool, POOLS), compute),
        seq_len=seq_len,
    )


def _choose(field: str, name: str, choices: dict):
    if name not in choices:
        raise ValueError(f"{field} is {name!r}; choose one of {sorted(choices)}")
    return choices[name]
