"""A vision transformer."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from common.array_types import Array, Float
from common.nn import LayerNorm

EXPANSION = 4


class EncoderLayer(nn.Module):
    """One pre-norm layer: x + attention(norm(x)), then x + mlp(norm(x)).

    Attributes:
        heads: attention heads.
        dtype: compute dtype; parameters are float32.
    """

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
        """Returns the tokens, each having seen all others."""
        attend = nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype, name="attention")
        x = x + attend(LayerNorm(dtype=self.dtype, name="norm1")(x))
        hidden = LayerNorm(dtype=self.dtype, name="norm2")(x)
        hidden = nn.Dense(EXPANSION * x.shape[-1], dtype=self.dtype, name="mlp_up")(hidden)
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="mlp_down")(jax.nn.gelu(hidden))


class ViT(nn.Module):
    """Patches, learned positions, pre-norm layers, norm, mean over the tokens, linear.

    Source: Dosovitskiy et al. 2021, "An image is worth 16x16 words"; the mean in place of a class
    token as in their appendix D.4. With 12 layers it is the 'standard transformer' that the public
    CSSM notebooks compare with.

    Attributes:
        width: size d of a token, a multiple of the heads.
        heads: attention heads.
        patch: side of a patch, pixels; divides the image.
        depth: layers.
        num_classes: number of logits.
        dtype: compute dtype; parameters are float32.
    """

    width: int
    heads: int = 4
    patch: int = 4
    depth: int = 12
    num_classes: int = 2
    dtype: jnp.dtype = jnp.float32

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ValueError: a size below 1, or a width that does not split into the heads.
        """
        super().__post_init__()
        for name in ("width", "heads", "patch", "depth", "num_classes"):
            if (size := getattr(self, name)) < 1:
                raise ValueError(f"{name} is {size}; expected 1 or more")
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}; expected a multiple of {self.heads} heads")

    @nn.compact
    def __call__(
        self, x: Float[Array, "b H W 3"], training: bool = False
    ) -> Float[Array, "b classes"]:
        """Returns the logits of still images.

        Raises:
            ValueError: the image does not divide into patches.
        """
        del training
        if x.shape[-3] % self.patch or x.shape[-2] % self.patch:
            raise ValueError(f"patch is {self.patch}; it does not divide images {x.shape[-3:]}")
        size = (self.patch, self.patch)
        x = nn.Conv(self.width, size, size, dtype=self.dtype, name="patches")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        initial = nn.initializers.normal(0.02)
        table = self.param("pos_embed", initial, (1, *x.shape[1:]), jnp.float32)
        x = x + jnp.broadcast_to(table, x.shape).astype(x.dtype)
        for i in range(self.depth):
            x = EncoderLayer(self.heads, self.dtype, name=f"layer_{i}")(x)
        x = LayerNorm(dtype=self.dtype, name="norm")(x).mean(-2).astype(jnp.float32)
        return nn.Dense(self.num_classes, name="head")(x)
