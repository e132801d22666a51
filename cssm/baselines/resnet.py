"""A small residual network."""

import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.nn import LayerNorm


class BasicBlock(nn.Module):
    """relu(shortcut(x) + norm(conv(relu(norm(conv(x)))))), with 3 x 3 convolutions.

    The shortcut is x itself, or a 1 x 1 convolution and a norm where the shape changes.

    Attributes:
        width: channels of the result.
        stride: step of the first convolution and of the shortcut.
        dtype: compute dtype; parameters are float32.
    """

    width: int
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b H W k"]) -> Float[Array, "b h w c"]:
        """Returns the map, h = ceil(H / stride)."""
        y = nn.relu(self._conv("1", x, 3, self.stride))
        y = self._conv("2", y, 3)
        if x.shape != y.shape:
            x = self._conv("_shortcut", x, 1, self.stride)
        return nn.relu(x + y)

    def _conv(self, name: str, x: Array, size: int, stride: int = 1) -> Array:
        """Convolution and norm; padded alike on both sides, so that strides stay centred."""
        strides, padding = (stride, stride), (size - 1) // 2
        x = nn.Conv(
            self.width,
            (size, size),
            strides,
            padding,
            use_bias=False,
            dtype=self.dtype,
            name=f"conv{name}",
        )(x)
        return LayerNorm(dtype=self.dtype, name=f"norm{name}")(x)


class ResNet(nn.Module):
    """A 3 x 3 convolution, stages of basic blocks, mean over the map, linear.

    Every stage but the first begins with a stride of 2, as in the networks for small images of He
    et al. 2016, "Deep residual learning for image recognition", section 4.2. Norms are layer norms
    over channels: `common.train` keeps no batch statistics, and a norm over the map would show
    every place the whole image.

    Attributes:
        widths: channels of each stage.
        blocks: basic blocks in each stage.
        num_classes: number of logits.
        dtype: compute dtype; parameters are float32.
    """

    widths: tuple[int, ...]
    blocks: int = 2
    num_classes: int = 2
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: no stage, or a size below 1.
        """
        super().__post_init__()
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths is {self.widths}; expected one or more of 1 or more")
        if self.blocks < 1:
            raise ValueError(f"blocks is {self.blocks}; expected 1 or more")

    @nn.compact
    def __call__(
        self, x: Float[Array, "b H W 3"], training: bool = False
    ) -> Float[Array, "b classes"]:
        """Returns the logits of still images."""
        del training
        x = nn.Conv(self.widths[0], (3, 3), use_bias=False, dtype=self.dtype, name="conv")(x)
        x = nn.relu(LayerNorm(dtype=self.dtype, name="norm")(x))
        for stage, width in enumerate(self.widths):
            for i in range(self.blocks):
                stride = 2 if stage and not i else 1
                x = BasicBlock(width, stride, self.dtype, name=f"block_{stage}_{i}")(x)
        x = x.mean((-3, -2)).astype(jnp.float32)
        return nn.Dense(self.num_classes, name="head")(x)
