# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Put a picture into a language model
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)
#
# **Question:** a small decoder knows words only. By which ways can it be given a picture, what do
# they do to its numbers, and where does it look when it answers?
#
# Generated pictures, no GPU, no download of data. In Colab, the badge opens the dialog in which you
# give the repository.

# %% [markdown]
# ## Setup
#
# On your machine nothing is installed or downloaded. In Colab, fill in `REPOSITORY`, the address
# that you opened this notebook from; Colab's own jax is left as it is.

# %%
import os
import subprocess
import sys
from pathlib import Path

IN_COLAB = "google.colab" in sys.modules
REPOSITORY = ""
if IN_COLAB and not Path("cssm-lab").exists():
    subprocess.run(["git", "clone", "--quiet", "--depth=1", REPOSITORY, "cssm-lab"], check=True)
    subprocess.run(["bash", "cssm-lab/colab/install.sh"], check=True)
here = Path("cssm-lab").resolve() if IN_COLAB else Path.cwd()
ROOT = next(folder for folder in (here, *here.parents) if (folder / "cssm").is_dir())
sys.path.insert(0, str(ROOT))
os.chdir(ROOT)

# %%
# %matplotlib inline
import common
import jax
import numpy as np
from common.analysis import attribution_maps, gates_over_training, image_grid, learning_curves
from common.analysis import scaling_and_shifting
from common.data.pipeline import gather
from common.data.sort_of_clevr import TYPES, decode
from common.train import parameter_count, read_records, restore_params
from experiments.analyses import injection as look
from experiments.cli import load_config
from experiments.configs.injection import MECHANISMS
from experiments.injection import train_and_evaluate
from experiments.models.injection import pack
from experiments.models.scene_encoder import ROLES
from experiments.tasks import scene_encoder
from experiments.tasks.injection import make_task

assert Path(common.__file__).is_relative_to(ROOT), f"another 'common': {common.__file__}"
FAST = bool(os.environ.get("CSSM_LAB_FAST"))
WORKDIR = os.environ.get("CSSM_LAB_WORKDIR", "runs/vision_into_language")
CONFIG = "experiments/configs/injection.py"
print("running", "in Colab" if IN_COLAB else "locally", "with", ROOT.name)

# %% [markdown]
# ## The task
#
# Sort-of-CLEVR: six objects of six colours, circles or squares. A question is three words, its answer
# the fourth. *Non-relational* ones ask about one object, *relational* ones about several: for those,
# the shapes alone, without places, already give 79 % away.

# %%
ENCODERS = {"encoder.folder": f"{WORKDIR}_encoders"}
SIZE = ",smoke" if FAST else ""  # a few steps, for tests
config = load_config(f"{CONFIG}:cross{SIZE}", ENCODERS)
task = make_task(config)
pictures = gather(task.eval_sources["test"].pictures, np.arange(6))
captions = [decode(row[n]).replace(" ", "\n", 1) for n, row in enumerate(pictures["tokens"])]
image_grid(pictures["image"], captions)

# %% [markdown]
# ## First an encoder
#
# As in larger models, the encoder of pictures is trained before and stays as it is. At the place of
# every object it learns to name the object, the one nearest to it and the one furthest from it: the
# relations are in its features, and the question is what of them a mechanism brings into the text.

# %%
scene_encoder.train_encoder(config)

# %% [markdown]
# What it names on a map of ten places to a side (six in the fast run), 0 for nothing:

# %%
own, folder = scene_encoder.encoder_run(config)
encoder = scene_encoder.make_task(own)
_, seeing = restore_params(encoder, own, folder)
side, size = task.model.side, config.data.image_size
named = np.asarray(jax.jit(encoder.see)(seeing, pictures["image"]).names.argmax(-1))
truth = np.asarray(scene_encoder.things_at_places(pictures, side, size))
right = (named == truth)[truth[..., 0] > 0].mean(0)
print(dict(zip(ROLES, right.round(2), strict=True)))
maps = named[0].reshape(side, side, 3).transpose(2, 0, 1)
attribution_maps(np.repeat(pictures["image"][:1], 3, axis=0), maps, ROLES)

# %% [markdown]
# ## Many questions, one picture
#
# All questions about a picture stand in one row, so that it is read once. A question sees itself and
# what stands for the picture, never another question: below, who (rows) may see whom (columns), with
# two places for the picture in front.

# %%
text = pack(pictures["tokens"][:1, :3, :3], 2)
print(np.asarray(text.mask[0] & np.tri(11, dtype=bool)).astype(int))

# %% [markdown]
# ## Twelve ways in
#
# Some put visual tokens *into* the text, in the places of image tokens; the others leave the text as
# it is and change its states *beside* it, by attention to the picture or by scale and shift (FiLM).
# All are made about equally large.

# %%
for mechanism in MECHANISMS:
    made = make_task(load_config(f"{CONFIG}:{mechanism}"))
    params = jax.eval_shape(made.init, jax.random.key(0))
    print(
        f"{mechanism:20} {made.model.image_tokens:4} image tokens {parameter_count(params):9,} parameters"
    )

# %% [markdown]
# ## Nothing, at the start
#
# What has gates, or FiLM, begins as the decoder alone: other pictures, same answers. What puts tokens
# into the text does not.


# %%
def change(mechanism):
    """Largest change of an untrained model's logits when pictures are swapped."""
    made = make_task(load_config(f"{CONFIG}:{mechanism}{SIZE}", ENCODERS))
    params = jax.jit(made.init)(jax.random.key(0))
    two = gather(made.eval_sources["test"], np.arange(2))
    say = jax.jit(lambda features: made.answer(params, {**two, "features": features}))
    return float(abs(say(two["features"]) - say(two["features"][::-1])).max())


for mechanism in ("cross", "film", "projection"):
    print(f"{mechanism:12} changes by {change(mechanism):.3f}")

# %% [markdown]
# ## Training
#
# Gated cross-attention before every layer. Only the decoder and the mechanism learn; the gates open.

# %%
result = train_and_evaluate(config, WORKDIR)
print({name: round(result["test"][name], 3) for name in TYPES})

# %%
records = read_records(Path(WORKDIR, "metrics.jsonl"))
learning_curves(records)

# %%
gates_over_training({"gated cross-attention": look.gate_histories(records)})

# %% [markdown]
# ## Where it looks
#
# From the last word of each question to the places of the picture, in the mean of the heads, before
# the second layer.

# %%
_, params = restore_params(task, config, WORKDIR)
batch = gather(task.eval_sources["test"], np.arange(6))
maps = look.image_attention(task, params, batch)["layer 1"][0]
asked = [decode(row).replace(" ", "\n", 1) for row in batch["tokens"][0]]
attribution_maps(np.repeat(pictures["image"][:1], 6, axis=0), maps, asked)

# %% [markdown]
# ## Scale or shift
#
# FiLM has no places to look at: one vector of the whole picture scales and shifts the channels of
# every word. How much of each?

# %%
film_config = load_config(f"{CONFIG}:film{SIZE}", ENCODERS)
train_and_evaluate(film_config, f"{WORKDIR}_film")
film_task = make_task(film_config)
_, film_params = restore_params(film_task, film_config, f"{WORKDIR}_film")
films = look.modulations(
    film_task, film_params, gather(film_task.eval_sources["test"], np.arange(64))
)
scaling_and_shifting(TYPES, {name: (m.scaling, m.shifting) for name, m in films.items()})

# %% [markdown]
# ## Where to go from here
#
# - `python -m experiments.injection --config=experiments/configs/injection.py:MECHANISM`: one run, with
#   its page.
# - `python -m experiments.injection_comparison`: all of them over seeds, before several layers, with
#   controls that are not shown the picture or the question.
