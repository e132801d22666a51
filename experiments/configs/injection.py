r"""Injection configs; choices follow the colon, e.g. injection.py:flamingo or :film,late.

    python -m experiments.injection --config=experiments/configs/injection.py:MECHANISM

| choice | of |
|---|---|
| mechanism | how vision enters, see below |
| layers | before which it stands: own (default), early, middle, late (two each), every_2, every, \
first, second, third, fourth |
| blank | what the model is not shown: nothing (default), image, question |
| size | small (default), smoke |

Visual tokens in the text, in the places of image tokens: projection, spatial_projection, qformer,
perceiver, slots. Beside the text: cross (gated cross-attention), flamingo (the same behind a
Perceiver resampler), mllama (layers that are cross-attention), disentangled (attention to text and
vision with terms of their own), film, pathways, film_ensemble (by the mean of the features).

The encoder is trained before, without questions, and frozen: at the place of every object it names
the object, the nearest and the furthest one. Runs of one seed and the same encoder share it; the
first trains it. From questions alone, encoder and all, distances were not learned in 3,000 steps.

Measured: see docs/injection.md, "Questions about pictures".
"""

from ml_collections import ConfigDict

from common.errors import UserError
from experiments.configs.choices import read_choices
from experiments.configs.mesh import by_examples

DEPTH = 4
IN_TEXT = ("projection", "spatial_projection", "qformer", "perceiver", "slots")
BESIDE = ("cross", "flamingo", "mllama", "disentangled", "film", "pathways", "film_ensemble")
MECHANISMS = (*BESIDE, *IN_TEXT)
WIDTHS = {
    "cross": (96, 64),
    "flamingo": (52, 48),
    "mllama": (136, 64),
    "disentangled": (52, 64),
    "film": (148, 96),
    "pathways": (56, 48),
    "film_ensemble": (200, 96),
    "projection": (236, 64),
    "spatial_projection": (152, 4),
    "qformer": (116, 128),
    "perceiver": (168, 96),
    "slots": (128, 96),
}
"""Widths of what is hidden in the decoder's feed-forward nets and in the mechanism, by which all
models have about as many parameters."""

POSITIONS = {
    "early": (0, 1),
    "middle": (1, 2),
    "late": (2, 3),
    "every_2": (0, 2),
    "every": (0, 1, 2, 3),
    "first": (0,),
    "second": (1,),
    "third": (2,),
    "fourth": (3,),
}
CHOICES = {
    "mechanism": MECHANISMS,
    "layers": ("own", *POSITIONS),
    "blank": ("nothing", "image", "question"),
    "size": ("small", "smoke"),
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of some choices."""
    chosen = read_choices(variant, CHOICES)
    config = ConfigDict()
    config.seed = 0
    config.mesh = by_examples()
    config.model = _model(chosen["mechanism"], chosen["layers"])

    config.encoder = _encoder()

    config.data = ConfigDict()
    config.data.image_size = 75
    config.data.radius = 5
    config.data.per_type = 2  # questions of each type about a training picture
    config.data.blank = chosen["blank"]
    config.data.train_count = 6_000
    config.data.validation_count = 500
    config.data.test_count = 2_000
    config.data.seed = 0

    config.optim = ConfigDict()
    config.optim.learning_rate = 2e-3
    config.optim.final_fraction = 0.02
    config.optim.warmup_steps = 50
    config.optim.weight_decay = 0.01
    config.optim.clip_norm = 1.0
    config.optim.gate_scale = 10.0  # gates begin at 0, and vision learns nothing before they open

    config.train = ConfigDict()
    config.train.steps = 800
    config.train.batch_size = 24
    config.train.eval_batch_size = 50
    config.train.log_every = 25
    config.train.eval_every = 400
    config.train.checkpoint_every = 400
    config.train.keep_last = 1
    config.train.keep_best = 1
    config.train.max_skipped_steps = 0
    if chosen["size"] == "smoke":
        _shrink(config)
    return config


def _encoder() -> ConfigDict:
    """The encoder's own run, before the one that learns to answer; runs of one seed share it."""
    config = ConfigDict()
    config.folder = "runs/encoders"  # each in a folder named by its seed and settings

    config.model = ConfigDict()
    config.model.channels = (16, 32, 64)
    config.model.width = 64
    config.model.heads = 4
    config.model.hidden = 64

    config.data = ConfigDict()
    config.data.train_count = 96_000
    config.data.validation_count = 500

    config.optim = ConfigDict()
    config.optim.learning_rate = 4e-3
    config.optim.final_fraction = 0.02
    config.optim.warmup_steps = 50
    config.optim.weight_decay = 0.01
    config.optim.clip_norm = 1.0

    config.train = ConfigDict()
    config.train.steps = 1_000
    config.train.batch_size = 32
    config.train.eval_batch_size = 50
    config.train.log_every = 50
    config.train.eval_every = 500
    config.train.checkpoint_every = 250
    config.train.keep_last = 1
    config.train.keep_best = 1
    config.train.max_skipped_steps = 0
    return config


def _model(mechanism: str, layers: str) -> ConfigDict:
    model = ConfigDict()
    model.mechanism = mechanism
    model.layers = _layers(mechanism, layers)
    model.width = 64
    model.depth = 6 if mechanism == "mllama" else DEPTH
    model.heads = 2
    model.hidden, model.inner = WIDTHS[mechanism]
    model.tokens = 8  # that a resampler makes
    model.members = 2  # of an ensemble
    return model


def _layers(mechanism: str, chosen: str) -> tuple[int, ...]:
    """Returns the numbers of the layers that a mechanism stands before, or that it is."""
    if mechanism == "mllama":
        if chosen != "own":
            raise UserError("mllama has layers of its own; layers is for the other mechanisms")
        return (3, 5)  # mllama_schedule(6, 2)
    if mechanism in IN_TEXT:
        if chosen not in ("own", "first", "second", "third", "fourth"):
            raise UserError(f"{mechanism} replaces tokens at one place; layers is {chosen!r}")
        return POSITIONS["first" if chosen == "own" else chosen]
    return POSITIONS["every" if chosen == "own" else chosen]


def _shrink(config: ConfigDict) -> None:
    """Every part of a run in well under a minute; it learns next to nothing."""
    config.encoder.model.update(width=16, heads=2, hidden=16, channels=(8, 8, 16))
    config.encoder.data.update(train_count=400, validation_count=50)
    config.encoder.optim.update(warmup_steps=5)
    config.encoder.train.update(steps=30, batch_size=8, log_every=10, eval_every=15)
    config.encoder.train.update(checkpoint_every=15)
    config.model.update(width=16, heads=2, hidden=16, inner=16, tokens=4)
    config.data.update(image_size=41, radius=2, per_type=1)
    config.data.update(train_count=400, validation_count=50, test_count=100)
    config.optim.update(warmup_steps=5)
    config.train.update(steps=30, batch_size=8, eval_batch_size=50, log_every=10)
    config.train.update(eval_every=15, checkpoint_every=15)
