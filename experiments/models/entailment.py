"""ALCNet from a config: the one place where its words become modules."""

from typing import Any

from ml_collections import ConfigDict

from alcnet import (
    ALCNet,
    ConcatFusion,
    Embeddings,
    Encoder,
    EncoderLayer,
    EqualRegions,
    FilmGenerator,
    GatedFusion,
    LastLayer,
    SentenceRegions,
    StatisticsBranch,
    TopLeft,
    WeightedLayers,
    all_seen,
    detached,
    first_token,
    make_attention_cnn,
    mean_of_tokens,
    plain_statistics,
    relative_statistics,
    token_regions,
)
from common.errors import UserError

BRANCHES = ("cls", "cnn", "stats", "film")
"""Parts that a model may have: 'stats' feeds the head, 'film' lets statistics steer the CNN."""

POOLINGS = {
    "mean": lambda: LastLayer(mean_of_tokens),
    "first": lambda: LastLayer(first_token),
    "weighted_mean": lambda: WeightedLayers(4, mean_of_tokens),
    "weighted_first": lambda: WeightedLayers(4, first_token),
}
SUMMARIES = {"relative": relative_statistics, "plain": plain_statistics}
FUSIONS = ("concat", "gated")


def make_alcnet(config: ConfigDict, encoder: Encoder, classes: int = 2) -> ALCNet:
    """Builds the model of `config` on top of an encoder.

    Args:
        config: has branches, pooling, fusion, head_dropout, regions, channels, blocks, features,
            statistics, statistics_gradient and visible.
        encoder: gives hidden states and attention maps.
        classes: number of logits.

    Raises:
        UserError: a value that cannot be used, or parts that need others.
    """
    parts = _checked_branches(config.branches)
    summary = _choose("statistics", config.statistics, SUMMARIES)
    channels = (config.channels,) * config.blocks
    statistics = StatisticsBranch(config.features) if {"stats", "film"} & set(parts) else None
    layers = len(encoder.layers)
    return ALCNet(
        encoder,
        _fusion(config, parts, classes),
        pooling=_choose("pooling", config.pooling, POOLINGS)() if "cls" in parts else None,
        cnn=make_attention_cnn(config.channels, config.blocks, config.features)
        if "cnn" in parts
        else None,
        statistics=statistics,
        film=FilmGenerator(channels) if "film" in parts else None,
        regions=_regions(tuple(config.regions)),
        view=_view(config.visible),
        statistic_layers=tuple(range(max(0, layers - 3) - layers, 0)),
        summary=summary if config.statistics_gradient else detached(summary),
    )


def fresh_encoder(config: ConfigDict, vocabulary: int, positions: int, dtype: Any) -> Encoder:
    """Builds an encoder to be trained from nothing, of config.width, layers, heads and hidden."""
    if config.width % config.heads:
        raise UserError(
            f"encoder.width {config.width} does not divide into {config.heads} encoder.heads"
        )
    embeddings = Embeddings(
        vocabulary, positions, 2, config.width, dropout=config.dropout, dtype=dtype
    )
    layer = EncoderLayer(
        config.heads,
        config.hidden,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        dtype=dtype,
    )
    return Encoder(
        embeddings, tuple(layer.clone() for _ in range(config.layers)), None, config.remat
    )


def _checked_branches(branches: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in branches if name not in BRANCHES]
    if unknown or len(set(branches)) < len(branches) or not set(branches) - {"film"}:
        raise UserError(
            f"model.branches is {tuple(branches)}; expected some of {BRANCHES}, each once"
        )
    if "film" in branches and "cnn" not in branches:
        raise UserError("model.branches has 'film' without 'cnn'; there is nothing to steer")
    return tuple(branches)


def _fusion(config: ConfigDict, parts: tuple[str, ...], classes: int) -> Any:
    read = tuple(name for name in BRANCHES[:3] if name in parts)
    if config.fusion == "concat":
        return ConcatFusion(classes, read, config.head_dropout)
    if config.fusion != "gated":
        raise UserError(f"model.fusion is {config.fusion!r}; choose one of {', '.join(FUSIONS)}")
    reading = tuple(name for name in read if name != "cls")
    if "cls" not in read or not reading:
        raise UserError("model.fusion 'gated' needs 'cls' and one of 'cnn' and 'stats'")
    return GatedFusion(classes, ("cls",), reading, config.head_dropout)


def _regions(counts: tuple[int, ...]) -> Any:
    """Returns token_regions for (), EqualRegions for (g,) and SentenceRegions for (g, h)."""
    if any(count < 1 for count in counts) or len(counts) > 2:
        raise UserError(f"model.regions is {counts}; expected none, one or two counts")
    makers = {1: EqualRegions, 2: SentenceRegions}
    return makers[len(counts)](*counts) if counts else token_regions


def _view(share: float) -> Any:
    if not 0 < share <= 1:
        raise UserError(f"model.visible is {share}; expected a share above 0, up to 1")
    return all_seen if share == 1 else TopLeft(share)


def _choose(key: str, name: str, choices: Any) -> Any:
    if name not in choices:
        raise UserError(f"model.{key} is {name!r}; choose one of {', '.join(choices)}")
    return choices[name]
