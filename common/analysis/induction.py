"""Does a language model look back for what followed before? Scores of heads and of losses.

Sources: Elhage et al. 2021, "A mathematical framework for transformer circuits"; Olsson et al.
2022, "In-context learning and induction heads".

Attention weights are (*l, b, heads, q, s) with q = s = t, the weight of query q on key s; the axes
*l, say of layers, are kept. Tokens are (b, t). Scores are in float64.
"""

from collections.abc import Sequence

import numpy as np

from common.array_types import Bool, Float, Int

OFFSETS = range(-2, 8)


def previous_occurrence(tokens: Int[np.ndarray, "b t"]) -> Int[np.ndarray, "b t"]:
    """Returns where each token was last before, or -1 where it was not."""
    tokens = np.asarray(tokens)
    order = np.argsort(tokens, axis=1, kind="stable")
    ordered = np.take_along_axis(tokens, order, 1)
    again = ordered[:, 1:] == ordered[:, :-1]
    places = np.full(tokens.shape, -1)
    np.put_along_axis(places, order[:, 1:], np.where(again, order[:, :-1], -1), 1)
    return places


def attention_by_offset(
    weights: Float[np.ndarray, "*l b heads q s"],
    tokens: Int[np.ndarray, "b t"],
    offsets: Sequence[int] = OFFSETS,
    where: Bool[np.ndarray, "b t"] | None = None,
) -> Float[np.ndarray, "*l heads offsets"]:
    """Returns each head's mean attention at places around the last occurrence of the current token.

    With p the last place before i that holds the token at i, the entry at offset o is the mean of
    the weight of query i on key p + o, over all i that have such a p and for which p + o lies
    within 0 to i. An induction head has its mass at +1, on what followed. Behind a causal
    convolution the keys hold what came before them as well, and the mass may lie at other offsets,
    so look at the whole profile; a mean over no queries is NaN.

    Args:
        weights: attention weights.
        tokens: what the model read.
        offsets: which to report.
        where: queries to count; all where None.

    Raises:
        ValueError: shapes that do not fit.
    """
    weights, tokens, chosen = _checked(weights, tokens, where)
    places, queries = previous_occurrence(tokens), np.arange(tokens.shape[1])
    profile = []
    for offset in offsets:
        keys = places + offset
        counted = chosen & (places >= 0) & (keys >= 0) & (keys <= queries)
        index = np.where(counted, keys, 0)[(None,) * (weights.ndim - 4)][..., None, :, None]
        mass = np.take_along_axis(weights, index, -1)[..., 0]
        profile.append(_mean(mass, counted))
    return np.stack(profile, -1)


def induction_score(
    weights: Float[np.ndarray, "*l b heads q s"],
    tokens: Int[np.ndarray, "b t"],
    where: Bool[np.ndarray, "b t"] | None = None,
) -> Float[np.ndarray, "*l heads"]:
    """Returns each head's mean attention to what followed the last occurrence of the current token.

    It is `attention_by_offset` at +1, from 0 to 1; arguments and errors are the same.
    """
    return attention_by_offset(weights, tokens, (1,), where)[..., 0]


def prefix_matching_score(
    weights: Float[np.ndarray, "*l b heads q s"],
    tokens: Int[np.ndarray, "b t"],
    where: Bool[np.ndarray, "b t"] | None = None,
) -> Float[np.ndarray, "*l heads"]:
    """Returns each head's attention to what followed any earlier occurrence of the current token.

    Olsson et al. 2022, on random sequences that are repeated several times. The weights on all
    these places are added up here, so that a head that does nothing else scores 1 however often
    the sequence came before; the mean is over queries whose token has occurred before.

    Args:
        weights: attention weights.
        tokens: what the model read.
        where: queries to count; all where None.

    Raises:
        ValueError: shapes that do not fit.
    """
    weights, tokens, chosen = _checked(weights, tokens, where)
    same = np.tril(tokens[:, :, None] == tokens[:, None, :], -1)  # query, key
    followed = np.zeros_like(same)
    followed[:, :, 1:] = same[:, :, :-1]
    mass = np.einsum("...bhqs,bqs->...bhq", weights, followed, dtype=np.float64)
    return _mean(mass, chosen & same.any(-1))


def previous_token_score(
    weights: Float[np.ndarray, "*l b heads q s"],
) -> Float[np.ndarray, "*l heads"]:
    """Returns each head's mean attention to the token just before, from 0 to 1.

    Such heads give the keys of the next layer what came before them, which is how two layers of
    attention do induction (Elhage et al. 2021). The first query has none before it and is left out.

    Args:
        weights: attention weights.

    Raises:
        ValueError: weights of another shape.
    """
    weights = _checked_weights(weights)
    return np.diagonal(weights, -1, -2, -1).astype(np.float64).mean((-3, -1))


def ov_eigenvalues(
    embedding: Float[np.ndarray, "v d"],
    value: Float[np.ndarray, "d heads k"],
    output: Float[np.ndarray, "heads k d"],
    unembedding: Float[np.ndarray, "d v"],
) -> np.ndarray:
    """Returns the eigenvalues (heads, k) complex of each head's map from attended token to logits.

    The map embedding @ value @ output @ unembedding is (v, v) of rank k; its other eigenvalues are
    0, and these are those of output @ unembedding @ embedding @ value (k, k), as XY and YX share
    them. Norms and convolutions between embedding and head are not in it: give the embedding as
    the head sees it.

    Args:
        embedding: of tokens.
        value: projection of each head, as Flax keeps it.
        output: projection of each head, as Flax keeps it.
        unembedding: from the residual stream to logits.

    Raises:
        ValueError: shapes that do not fit.
    """
    embedding, value, output, unembedding = _checked_circuit(embedding, value, output, unembedding)
    through = unembedding @ embedding
    small = np.einsum("hkd,de,ehl->hkl", output, through, value, optimize=True)
    return np.linalg.eigvals(small)


def copying_score(
    embedding: Float[np.ndarray, "v d"],
    value: Float[np.ndarray, "d heads k"],
    output: Float[np.ndarray, "heads k d"],
    unembedding: Float[np.ndarray, "d v"],
) -> Float[np.ndarray, "heads"]:
    """Returns sum(lambda) / sum(|lambda|) of `ov_eigenvalues`, from -1 to 1 (Elhage et al. 2021).

    1 means that attending to tokens raises the logits of the same tokens, in all combinations; -1
    that it lowers them; random matrices are near 0. Arguments and errors as for `ov_eigenvalues`.
    """
    eigenvalues = ov_eigenvalues(embedding, value, output, unembedding)
    return np.real(eigenvalues).sum(-1) / np.abs(eigenvalues).sum(-1)


def copying_strength(
    embedding: Float[np.ndarray, "v d"],
    value: Float[np.ndarray, "d heads k"],
    output: Float[np.ndarray, "heads k d"],
    unembedding: Float[np.ndarray, "d v"],
) -> Float[np.ndarray, "heads"]:
    """Returns how far a head that attends to a token raises its logit above those of all tokens.

    The logit of the attended token less the mean over all v logits, in units of their standard
    deviation, averaged over all tokens; 0 +- 1 / sqrt(v) for random matrices. Nothing of size (v,
    v) is made. Arguments and errors as for `ov_eigenvalues`.
    """
    embedding, value, output, unembedding = _checked_circuit(embedding, value, output, unembedding)
    read = np.einsum("vd,dhk->hvk", embedding, value, optimize=True)
    write = np.einsum("hkd,dv->hkv", output, unembedding, optimize=True)
    write = write - write.mean(-1, keepdims=True)
    own = np.einsum("hvk,hkv->hv", read, write)
    covariance = write @ np.swapaxes(write, -1, -2) / write.shape[-1]
    variance = np.einsum("hvk,hkl,hvl->hv", read, covariance, read, optimize=True)
    return (own / np.sqrt(variance)).mean(-1)


def in_context_learning_score(
    losses: Float[np.ndarray, "b t"], early: int = 50, late: int = 500
) -> float:
    """Returns the mean loss of the prediction from `late` tokens less that from `early` tokens.

    Olsson et al. 2022, with the 500th and the 50th token; below 0 where more context helps.

    Args:
        losses: column i is the loss of the prediction from i + 1 tokens.
        early: number of tokens, 1 or more.
        late: number of tokens, more than `early`.

    Raises:
        ValueError: losses of another shape, or too few of them in a row.
    """
    losses = _checked_losses(losses)
    if not 1 <= early < late <= losses.shape[1]:
        raise ValueError(
            f"early is {early} and late {late}; expected 1 <= early < late <= {losses.shape[1]}, "
            "the predictions in a row"
        )
    return float((losses[:, late - 1] - losses[:, early - 1]).mean())


def repeat_losses(losses: Float[np.ndarray, "b t"], half: int) -> tuple[float, float]:
    """Returns the mean losses on the two halves of sequences that say the same twice.

    The first is over targets from the second token of the first half on, the second over targets
    from the second token of the second half on: its first token is foretold by nothing but the
    length, and belongs to neither. For random tokens of a vocabulary v the first is ln(v) at best.

    Args:
        losses: column i is the loss of predicting token i + 1 of 2 * half.
        half: tokens in a half, 2 or more.

    Raises:
        ValueError: losses of another shape, or a number of them that does not fit.
    """
    losses = _checked_losses(losses)
    if half < 2 or losses.shape[1] != 2 * half - 1:
        raise ValueError(
            f"{losses.shape[1]} losses in a row and half {half}; expected 2 * half - 1 of them, "
            "half 2 or more"
        )
    return float(losses[:, : half - 1].mean()), float(losses[:, half:].mean())


def _mean(mass: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Averages (*l, b, heads, q) over what is counted of (b, q); NaN where nothing is."""
    total = np.einsum("...bhq,bq->...h", mass, counted, dtype=np.float64)
    count = counted.sum()
    return total / count if count else np.full_like(total, np.nan)


def _checked_weights(weights: np.ndarray) -> np.ndarray:
    weights = np.asarray(weights)
    if weights.ndim < 4 or weights.shape[-1] != weights.shape[-2] or weights.shape[-1] < 2:
        raise ValueError(
            f"weights are {weights.shape}; expected (*l, b, heads, t, t), t of 2 or more"
        )
    return weights


def _checked(
    weights: np.ndarray, tokens: np.ndarray, where: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weights, tokens = _checked_weights(weights), np.asarray(tokens)
    shape = (weights.shape[-4], weights.shape[-1])
    chosen = np.ones(shape, bool) if where is None else np.asarray(where)
    for name, array in (("tokens", tokens), ("where", chosen)):
        if array.shape != shape:
            raise ValueError(f"{name} is {array.shape}; expected {shape}, as weights tell")
    return weights, tokens, chosen


def _checked_circuit(*matrices: np.ndarray) -> list[np.ndarray]:
    wide = [np.asarray(matrix, np.float64) for matrix in matrices]
    shapes = [matrix.shape for matrix in wide]
    if [len(shape) for shape in shapes] == [2, 3, 3, 2]:
        (v, d), (_, heads, k) = shapes[0], shapes[1]
        if shapes == [(v, d), (d, heads, k), (heads, k, d), (d, v)]:
            return wide
    raise ValueError(
        f"shapes are {', '.join(map(str, shapes))}; expected (v, d), (d, heads, k), (heads, k, d), "
        "(d, v)"
    )


def _checked_losses(losses: np.ndarray) -> np.ndarray:
    losses = np.asarray(losses, np.float64)
    if losses.ndim != 2 or not losses.size:
        raise ValueError(f"losses are {losses.shape}; expected (b, t), not empty")
    return losses
