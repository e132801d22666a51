r"""The family on one small task: every block type and baseline, trained alike; for a table.

    python -m experiments.pathfinder --config=experiments/configs/family.py:MODEL \
        --config.seed=SEED --workdir=runs/family/MODEL-SEED
    python -m experiments.reports.family runs/family

Matched Pathfinder on 32 pixels, contours of 3 paddles. A contour is some 17 pixels long and a cell
of the stem's map sees 10, so that none sees both dots: on a window of 75, where contours are 12
pixels long, the control `no_fft` reaches 65 %. All models see the same images in the same number of
steps, with the recipe of the transformer block; nothing is tuned for any other. A run takes
two to four minutes of processor time (Intel Xeon at 2.1 GHz), data and report included. With seed 0
the transformer block scores 90.8 % on the test images, `no_fft` 51.9 % (2026-11-22).
"""

from ml_collections import ConfigDict

from common.errors import UserError
from experiments.configs import pathfinder

ENDS = {"seq_len": 8, "act": "relu", "pool": "max", "dtype": "float32"}
"""Stem, readout and steps of all that are recurrent."""
BLOCK = {"name": "simple_cssm", "depth": 1, "pos_embed": "none"} | ENDS
BLOCK |= {"embed_dim": 32, "kernel_size": 7}

TYPES = ("transformer", "hgru_bi", "gated", "standard", "opponent", "gdn", "gdn_4")
TYPES += ("no_fft", "spatial_attn", "transformer_asymmetric", "transformer_no_feedback")
TYPES += (
    "transformer_stable",
    "hgru_bi_stable",
    "transformer_no_key",
    "transformer_unbounded",
    "transformer_steady_gates",
)
READOUTS = tuple(f"transformer_read_{states}" for states in ("q", "k", "a", "qk", "qa", "ka"))

BASELINES = {
    "hgru": {"name": "hgru", "embed_dim": 22, "kernel_size": 7} | ENDS,
    "vit": {"name": "vit", "width": 14, "heads": 2, "patch": 4, "depth": 12, "dtype": "float32"},
    "resnet": {"name": "resnet", "widths": (8, 16, 24), "blocks": 2, "dtype": "float32"},
    "conv_net": {"name": "conv_net", "widths": (24, 40, 58), "dtype": "float32"},
}
"""With about as many parameters as the transformer block's model has, 31,506."""

MODELS = {name: BLOCK | {"cssm_type": name} for name in (*TYPES, *READOUTS)} | BASELINES
TABLE = (*TYPES, *BASELINES)
"""The models of the table; the read-outs are left to those who ask."""
SEEDS = (0, 1, 2)


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of a model, by its name."""
    if variant not in MODELS:
        names = ", ".join(MODELS)
        raise UserError(f"config variant {variant!r} is unknown; choose one of {names}")
    config = pathfinder.get_config()
    config.model = ConfigDict(MODELS[variant])
    config.data.update(image_size=32, contour_length=3, window=52.0, padding=5.0)
    config.data.update(distractors=2, seed_distance=12.0, train_count=32_000)
    config.optim.warmup_steps = 100
    config.train.update(steps=1_000, log_every=50, eval_every=200, checkpoint_every=200)
    return config
