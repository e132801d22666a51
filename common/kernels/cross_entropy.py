"""Cross-entropy of logits that are products with a large table, without holding all of them.

    loss_t = logsumexp_v(x_t . table_v) - x_t . table_{label_t}

For a vocabulary of 50,257 the logits of 32 x 256 tokens are 1.6 GB, and their gradient as much.
Here they are made for some tokens at a time, and where a gradient is asked for, it is made with
them, so that nothing is computed twice: d total / d logits = weight (softmax - one_hot(label)).
Idea: Hsu et al. 2024, "Liger kernel", section 3.2; Wijmans et al. 2024, "Cut your losses".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from common.array_types import Array, Bool, Float, Int

LARGEST_CHUNK = 2**26
"""Number of logits that are held at a time, as far as one time step allows: 256 MiB."""


class CrossEntropy(NamedTuple):
    """What `linear_cross_entropy` returns.

    Attributes:
        total: sum of weight times loss; the only part that gradients flow through.
        losses: cross-entropy of each token, nats.
        correct: whether the label's logit is larger than every other.
    """

    total: Float[Array, ""]
    losses: Float[Array, "*b t"]
    correct: Bool[Array, "*b t"]


def linear_cross_entropy(
    features: Float[Array, "*b t d"],
    table: Float[Array, "v d"],
    labels: Int[Array, "*b t"],
    weights: Float[Array, "*b t"],
) -> CrossEntropy:
    """Computes softmax cross-entropies of the logits features . table^T, some steps at a time.

    Products are of the features' dtype and summed in float32; all else is in float32. Gradients
    are those of `features` and `table`; labels and weights have none.

    Args:
        features: last hidden values.
        table: one row for each class.
        labels: classes, from 0 to v - 1.
        weights: factor of each token in the total.

    Raises:
        ValueError: shapes that do not fit.
    """
    shape = features.shape[:-1]
    if labels.shape != shape or weights.shape != shape or table.shape[-1] != features.shape[-1]:
        raise ValueError(
            f"features {features.shape}, table {table.shape}, labels {labels.shape} and weights "
            f"{weights.shape} do not fit; expected (*b, t, d), (v, d), (*b, t) and (*b, t)"
        )
    steps = features.shape[-2]
    flat = features.reshape(-1, *features.shape[-2:])
    rows = [x.reshape(-1, steps) for x in (labels, weights.astype(jnp.float32))]
    total, losses, correct = _summed(flat, table, *rows)
    return CrossEntropy(total, losses.reshape(shape), correct.reshape(shape))


@jax.custom_vjp
def _summed(
    features: Float[Array, "b t d"],
    table: Float[Array, "v d"],
    labels: Int[Array, "b t"],
    weights: Float[Array, "b t"],
) -> CrossEntropy:
    narrow = table.astype(features.dtype)

    def chunk(features: Array, labels: Array, weights: Array) -> CrossEntropy:
        logits = _logits(narrow, features)
        return _scores(logits, labels, weights)[0]

    parts = _over_steps(chunk, table.shape[0], features, labels, weights)
    return CrossEntropy(parts.total.sum(), _joined(parts.losses), _joined(parts.correct))


def _forward(
    features: Array, table: Array, labels: Array, weights: Array
) -> tuple[CrossEntropy, tuple[Array, Array]]:
    """Computes the result, and its gradients with it."""
    narrow = table.astype(features.dtype)
    # Products of matrices as they lie in memory: in half precision XLA's CPU back end takes several
    # times as long for some others, and cannot do some. So classes come first, the transposed table
    # is written out once, and no transposition may move into a product.
    transposed = jax.lax.optimization_barrier(narrow.T)

    def chunk(carry: Array, parts: tuple[Array, ...]) -> tuple[Array, tuple[CrossEntropy, Array]]:
        features, labels, weights = parts
        result, exponentials, sums = _scores(_logits(narrow, features), labels, weights)
        weight = weights.reshape(1, -1)
        hit = _hits(labels, table.shape[0])
        gradient = exponentials * (weight / sums[None]) - jnp.where(hit, weight, 0.0)
        gradient = gradient.astype(features.dtype)
        of_table = _product(gradient, features.reshape(-1, features.shape[-1]))
        of_features = jax.lax.optimization_barrier(_product(transposed, gradient))
        of_features = of_features.T.reshape(features.shape)
        return carry + of_table, (result, of_features.astype(features.dtype))

    start = jnp.zeros(table.shape, jnp.float32)
    pieces = _split(table.shape[0], features, labels, weights)
    of_table, (parts, of_features) = jax.lax.scan(chunk, start, pieces)
    result = CrossEntropy(parts.total.sum(), _joined(parts.losses), _joined(parts.correct))
    return result, (_joined(of_features), of_table.astype(table.dtype))


def _backward(
    saved: tuple[Array, Array], cotangent: CrossEntropy
) -> tuple[Array, Array, None, None]:
    """Scales the gradients that are there already."""
    of_features, of_table = saved
    scale = cotangent.total
    return scale.astype(of_features.dtype) * of_features, scale * of_table, None, None


_summed.defvjp(_forward, _backward)


def _product(a: Float[Array, "i k"], b: Float[Array, "k j"]) -> Float[Array, "i j"]:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _logits(table: Float[Array, "v d"], features: Float[Array, "b t d"]) -> Float[Array, "v b*t"]:
    """Returns the logits, classes first."""
    return _product(table, features.reshape(-1, features.shape[-1]).T)


def _scores(
    logits: Float[Array, "v b*t"], labels: Int[Array, "b t"], weights: Float[Array, "b t"]
) -> tuple[CrossEntropy, Float[Array, "v b*t"], Float[Array, "b*t"]]:
    """Returns the scores, the exponentials of the logits above the largest, and their sums."""
    chosen = jnp.take_along_axis(logits, labels.reshape(1, -1), 0)[0]
    others = jnp.where(_hits(labels, logits.shape[0]), -jnp.inf, logits).max(0)
    largest = jnp.maximum(chosen, others)
    exponentials = jnp.exp(logits - largest[None])
    sums = exponentials.sum(0)
    losses = (jnp.log(sums) + largest - chosen).reshape(labels.shape)
    correct = (chosen > others).reshape(labels.shape)
    return CrossEntropy((weights * losses).sum(), losses, correct), exponentials, sums


def _hits(labels: Int[Array, "b t"], classes: int) -> Bool[Array, "v b*t"]:
    """Tells which class is the label."""
    return jnp.arange(classes)[:, None] == labels.reshape(1, -1)


def _split(classes: int, *arrays: Array) -> tuple[Array, ...]:
    """Cuts (b, t, ...) into equal pieces in time, (pieces, b, t / pieces, ...)."""
    batch, steps = arrays[0].shape[:2]
    fitting = max(1, LARGEST_CHUNK // (batch * classes))
    length = next(n for n in range(min(fitting, steps), 0, -1) if steps % n == 0)
    return tuple(
        jnp.moveaxis(x.reshape(batch, steps // length, length, *x.shape[2:]), 1, 0) for x in arrays
    )


def _over_steps(chunk, classes: int, *arrays: Array) -> CrossEntropy:
    """Calls `chunk` for one piece after the other."""
    return jax.lax.map(lambda parts: chunk(*parts), _split(classes, *arrays))


def _joined(x: Array) -> Array:
    """Joins pieces (pieces, b, t / pieces, ...) in time."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])
