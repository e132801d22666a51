"""A classifier of images and videos: stem, state space blocks, readout."""

from typing import ClassVar

from flax import linen as nn

from common.array_types import Array, Float


class SpectralClassifier(nn.Module):
    """Stem, position embedding, residual state space blocks x + block(x), readout.

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
    blocks: tuple[nn.Module, ...]
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
        if x.ndim not in (4, 5):
            raise ValueError(
                f"expected images (b, H, W, 3) or videos (b, t, H, W, 3); got {x.shape}"
            )
        still = x.ndim == 4
        steps = self.seq_len if still else x.shape[1]
        x = self.stem(x[:, None] if still else x, training)
        x = self.embedding(x, steps)
        self.sow("intermediates", "pre_cssm", x)
        for block in self.blocks:
            update = block(x, steps, self.last_only and block is self.blocks[-1])
            x = x[:, -1:] + update if update.shape[1] < x.shape[1] else x + update
        self.sow("intermediates", "post_cssm", x)
        return self.readout(x[:, -1:] if self.last_only else x, training)
