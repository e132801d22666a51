r"""Language configs; choices follow the colon, e.g. language.py:model=attn_attn,data=recall.

    python -m experiments.language --config=experiments/configs/language.py:model=conv_attn

| choice | of |
|---|---|
| model | conv_attn (default), conv_keys, conv_qkv, smeared_keys, hybrid, leaky, attn_attn |
| layers | attention layers of attn_attn and hybrid (1) |
| data | repeats (default), recall, copying: made up; made_up: articles that need no file; \
text, wikitext: --config.data.path=FILE-OR-FOLDER |
| size | small (default), smoke, paper |

Hardware below: one core of an Intel Xeon at 2.1 GHz, no GPU.
"""

from ml_collections import ConfigDict

from common.errors import UserError
from experiments.configs.choices import read_choices
from experiments.configs.mesh import by_examples

MODELS = ("conv_attn", "conv_keys", "conv_qkv", "smeared_keys", "hybrid", "leaky", "attn_attn")
DEEP = ("attn_attn", "hybrid")
"""Models that may have several attention layers."""
CHOICES = {
    "model": MODELS,
    "layers": ("1", "2", "4"),
    "data": ("repeats", "recall", "copying", "made_up", "text", "wikitext"),
    "size": ("small", "smoke", "paper"),
}


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config of some choices."""
    chosen = read_choices(variant, CHOICES)
    if chosen["layers"] != "1" and chosen["model"] not in DEEP:
        raise UserError(f"{chosen['model']} has one attention layer; layers is for {DEEP}")
    config = ConfigDict()
    config.seed = 0
    config.mesh = by_examples()
    config.model = _model(chosen["model"], int(chosen["layers"]))
    text = chosen["data"] in ("made_up", "text", "wikitext")
    config.data = _text(chosen["data"]) if text else _sequences(chosen["data"])
    config.optim = ConfigDict()
    config.optim.learning_rate = 1e-3 if text else 3e-3
    config.optim.final_fraction = 0.1
    config.optim.warmup_steps = 100
    config.optim.weight_decay = 0.01
    config.optim.clip_norm = 1.0
    config.train = _training(600 if text else 1_500, 16 if text else 32)
    if text:
        config.model.width = 128
    if chosen["size"] == "smoke":
        _shrink(config)
    if chosen["size"] == "paper":
        _as_in_the_paper(config)
    return config


def _model(name: str, layers: int) -> ConfigDict:
    """A model of some 25,000 parameters with a vocabulary of 64."""
    model = ConfigDict()
    model.name = name
    model.width = 64
    model.heads = 2
    model.positions = "rotary"
    model.tied = False
    model.dtype = "float32"
    if name in DEEP:
        model.depth = layers
    if name == "hybrid":
        model.mlp = False
    if name not in ("attn_attn", "smeared_keys"):
        model.taps = 5
    return model


def _sequences(kind: str) -> ConfigDict:
    """Examples of 64 to 80 tokens, no two alike; every training example is seen once."""
    data = ConfigDict()
    data.kind = kind
    if kind == "repeats":
        data.update(vocabulary=64, half_length=32, distinct=True, shortest=16)
    elif kind == "recall":
        data.update(keys=128, values=128, pairs=8, queries=8, context=63, power=0.01, noise=False)
    else:
        data.update(vocabulary=32, copied=8, gap=48, shortest=16, noise=True)
    data.train_count = 48_000
    data.validation_count = 500
    data.test_count = 2_000
    data.seed = 0
    return data


def _text(kind: str) -> ConfigDict:
    """Windows of 128 tokens of a byte-pair encoding that is trained on the training split."""
    data = ConfigDict()
    data.kind = kind
    data.path = ""
    data.tokenizer = "bpe:4096"  # or bytes, gpt2:FOLDER, hub:NAME
    data.context = 128
    data.stride = 128  # of validation and test; less gives each token more to go by
    data.cache = "data"
    data.seed = 0
    return data


def _training(steps: int, batch_size: int) -> ConfigDict:
    train = ConfigDict()
    train.steps = steps
    train.batch_size = batch_size
    train.eval_batch_size = 64
    train.log_every = 50
    train.eval_every = 300
    train.checkpoint_every = 300
    train.keep_last = 2
    train.keep_best = 1
    train.max_skipped_steps = 0
    return train


def _shrink(config: ConfigDict) -> None:
    """Every part of a run in well under a minute; it learns next to nothing."""
    config.model.width = 16
    if "tokenizer" in config.data:
        config.data.update(tokenizer="bpe:300", context=32, stride=16)
    else:
        config.data.update(train_count=2_000, validation_count=50, test_count=100)
    config.optim.warmup_steps = 5
    config.train.update(steps=30, batch_size=16, log_every=10, eval_every=15, checkpoint_every=15)


def _as_in_the_paper(config: ConfigDict) -> None:
    """The seed's recipe: d 512, 8 heads, 32 x 256 tokens, GPT-2's tokens, 15 epochs, bfloat16.

    15 epochs of WikiText-2 (2.4 million training tokens in GPT-2's encoding) are 4,380 steps. Wants
    a GPU, WikiText-2 in --config.data.path and a tokenizer; not yet run.
    """
    if "tokenizer" not in config.data:
        raise UserError("size=paper is for data=wikitext or text")
    config.seed = 42
    config.model.update(width=512, heads=8, dtype="bfloat16")
    config.data.update(tokenizer="hub:gpt2", context=256, stride=256)
    config.optim.update(learning_rate=3e-4, final_fraction=0.0, warmup_steps=500)
    config.train.update(steps=4_380, batch_size=32, eval_batch_size=32)
    config.train.update(log_every=50, eval_every=292, checkpoint_every=292)
