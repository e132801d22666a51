"""ALCNet: an encoder, what reads its hidden states and attention maps, and a head on top."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from alcnet.attention_cnn import AttentionCNN, Modulation
from alcnet.attention_maps import (
    EqualRegions,
    Regions,
    View,
    all_seen,
    pair_mask,
    pool_maps,
    standardise,
)
from alcnet.encoder import Encoder, EncoderOutput
from alcnet.film_generator import FilmGenerator, StatisticsBranch
from alcnet.statistics import HeadStatistics, Summary, head_statistics, relative_statistics
from common.array_types import Array, Bool, Float, Int

RegionMaker = Callable[[Array, Array], Regions]


class LayerReading(NamedTuple):
    """What is kept of the attention maps of one layer.

    Attributes:
        pooled: map of regions; None without a CNN.
        statistics: of its heads; None without statistics.
    """

    pooled: Float[Array, "b g g heads"] | None
    statistics: HeadStatistics | None


class Reading(struct.PyTreeNode):
    """What the encoder hands to the branches.

    Attributes:
        pooled_states: vector of the hidden states, (b, d); None without that branch.
        maps: maps of regions of the layers that the CNN reads; None without a CNN.
        mask: places of the maps that are there and may be seen; None without a CNN.
        statistics: (b, k); None without statistics.
    """

    pooled_states: Array | None
    maps: Float[Array, "b layers g g heads"] | None
    mask: Bool[Array, "b g g"] | None
    statistics: Float[Array, "b k"] | None


class Decision(struct.PyTreeNode):
    """What the branches make of a reading.

    Attributes:
        logits: of the classes.
        features: of the branches by name: 'cls', 'cnn', 'stats'.
        modulations: gamma and beta of every block; empty without FiLM.
    """

    logits: Float[Array, "b k"]
    features: dict[str, Float[Array, "b d"]]
    modulations: tuple[Modulation, ...] = ()


class ALCNet(nn.Module):
    """Classifies pairs of sentences by hidden states, attention maps and their statistics.

    A branch that is None is absent. `fusion` says which features are read, so that statistics may
    also serve FiLM alone. Maps are read layer by layer: only their regions and statistics are kept.

    Attributes:
        encoder: gives hidden states and attention maps.
        fusion: gives logits from features by branch.
        pooling: the branch 'cls'.
        cnn: the branch 'cnn'.
        statistics: the branch 'stats'.
        film: gives gamma and beta for the CNN from the features of the statistics.
        regions: joins tokens to the places of the CNN's maps.
        view: which of these places the CNN may see.
        map_layers: layers that the CNN reads, from 0; all by default.
        statistic_layers: layers whose statistics are taken, e.g. (-3, -2, -1).
        summary: makes statistics of an example of those of its heads.
    """

    encoder: Encoder
    fusion: nn.Module
    pooling: nn.Module | None = None
    cnn: AttentionCNN | None = None
    statistics: StatisticsBranch | None = None
    film: FilmGenerator | None = None
    regions: RegionMaker = EqualRegions(32)
    view: View = all_seen
    map_layers: tuple[int, ...] | None = None
    statistic_layers: tuple[int, ...] = (-3, -2, -1)
    summary: Summary = relative_statistics

    def __call__(
        self,
        input_ids: Int[Array, "b s"],
        attention_mask: Int[Array, "b s"] | None = None,
        token_type_ids: Int[Array, "b s"] | None = None,
        deterministic: bool = True,
        measured: Float[Array, "b m"] | None = None,
    ) -> Decision:
        """Classifies token ids; arguments as for `read`."""
        reading, _ = self.read(input_ids, attention_mask, token_type_ids, deterministic, measured)
        return self.decide(reading, deterministic)

    def read(
        self,
        input_ids: Int[Array, "b s"],
        attention_mask: Int[Array, "b s"] | None = None,
        token_type_ids: Int[Array, "b s"] | None = None,
        deterministic: bool = True,
        measured: Float[Array, "b m"] | None = None,
    ) -> tuple[Reading, EncoderOutput]:
        """Encodes token ids and takes from the encoder what the branches need.

        Args:
            input_ids: as for `Encoder`, and so the next three.
            attention_mask: likewise.
            token_type_ids: likewise.
            deterministic: likewise.
            measured: statistics that come with the examples; they follow those of the maps.

        Raises:
            ValueError: measured statistics, and no statistics branch.
        """
        if measured is not None and self.statistics is None:
            raise ValueError("measured statistics need the statistics branch")
        mask = jnp.ones_like(input_ids) if attention_mask is None else attention_mask
        types = jnp.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        regions = self.regions(mask, types)

        def read_layer(maps: Float[Array, "b heads s s"]) -> LayerReading:
            return LayerReading(
                None if self.cnn is None else pool_maps(maps, regions),
                None if self.statistics is None else head_statistics(maps, mask),
            )

        out = self.encoder(input_ids, mask, types, deterministic, read_layer)
        pooled = None if self.pooling is None else self.pooling(out.hidden_states, mask)
        maps = statistics = seen = None
        if self.cnn is not None:
            layers = range(len(out.readings)) if self.map_layers is None else self.map_layers
            maps = jnp.stack([out.readings[number].pooled for number in layers], 1)
            seen = self.view(pair_mask(regions.exist))
        if self.statistics is not None:
            chosen = [out.readings[number].statistics for number in self.statistic_layers]
            statistics = self.summary(chosen, jnp.sum(mask != 0, 1))
            if measured is not None:
                statistics = jnp.concatenate([statistics, measured.astype(statistics.dtype)], 1)
        return Reading(pooled, maps, seen, statistics), out

    def decide(self, reading: Reading, deterministic: bool = True) -> Decision:
        """Classifies what was read."""
        features: dict[str, Any] = {}
        modulations: tuple[Modulation, ...] = ()
        if reading.pooled_states is not None:
            features["cls"] = reading.pooled_states
        if self.statistics is not None and reading.statistics is not None:
            features["stats"] = self.statistics(reading.statistics)
        if self.film is not None:
            if "stats" not in features:
                raise ValueError("FiLM needs the statistics branch")
            modulations = self.film(features["stats"])
        if self.cnn is not None and reading.maps is not None and reading.mask is not None:
            maps = standardise(reading.maps, reading.mask)
            features["cnn"] = self.cnn(maps, reading.mask, modulations)
        return Decision(self.fusion(features, deterministic), features, modulations)
