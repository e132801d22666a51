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
from experiments.injection import make_task, train_and_evaluate
from experiments.injection_models import pack
from experiments.tasks.injection import things_at_places

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
config = load_config(f"{CONFIG}:cross", {"train.steps": 800})
if FAST:  # a few steps, for tests
    config = load_config(f"{CONFIG}:cross,smoke")
task = make_task(config)
batch = gather(task.eval_sources["test"], np.arange(6))
captions = [decode(row[n]).replace(" ", "\n", 1) for n, row in enumerate(batch["tokens"])]
image_grid(batch["image"], captions)

# %% [markdown]
# ## Many questions, one picture
#
# All questions about a picture stand in one row, so that it is read once. A question sees itself and
# what stands for the picture, never another question: below, who (rows) may see whom (columns), with
# two places for the picture in front.

# %%
text = pack(batch["tokens"][:1, :3, :3], 2)
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
    made = make_task(load_config(f"{CONFIG}:{mechanism},smoke"))
    params = jax.jit(made.init)(jax.random.key(0))
    two = gather(made.eval_sources["test"], np.arange(2))
    say = jax.jit(lambda images: made.answer(params, {**two, "image": images}).logits)
    return float(abs(say(two["image"]) - say(two["image"][::-1])).max())


for mechanism in ("cross", "film", "projection"):
    print(f"{mechanism:12} changes by {change(mechanism):.3f}")

# %% [markdown]
# ## Training
#
# Gated cross-attention before every layer, for a part of its recipe's steps. Relational questions
# come in late; meanwhile the encoder learns to name what stands where, and the gates open.

# %%
result = train_and_evaluate(config, WORKDIR)
print({name: round(result["test"][name], 3) for name in TYPES})

# %%
records = read_records(Path(WORKDIR, "metrics.jsonl"))
learning_curves(records)

# %%
gates_over_training({"gated cross-attention": look.gate_histories(records)})

# %% [markdown]
# ## What stands where
#
# The encoder's map, ten places to a side (six in the fast run): what is there, and what it says.

# %%
_, params = restore_params(task, config, WORKDIR)
said = jax.jit(task.answer)(params, batch)
side = task.model.side
truth = np.asarray(things_at_places(batch, side, task.train_source.settings))
named = np.asarray(said.names.argmax(-1))
print(f"right at {(named == truth)[truth > 0].mean():.0%} of the objects' places")
attribution_maps(batch["image"][:3], named.reshape(-1, side, side)[:3], ["named"] * 3)

# %% [markdown]
# ## Where it looks
#
# From the last word of each question to the places of the picture, in the mean of the heads, before
# the second layer.

# %%
maps = look.image_attention(task, params, batch)["layer 1"][0]
asked = [decode(row) for row in batch["tokens"][0]]
attribution_maps(
    np.repeat(batch["image"][:1], 6, axis=0), maps, [x.replace(" ", "\n", 1) for x in asked]
)

# %% [markdown]
# ## Scale or shift
#
# FiLM has no places to look at: one vector of the whole picture scales and shifts the channels of
# every word. How much of each, a few steps into training?

# %%
film_config = load_config(f"{CONFIG}:film,smoke")
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
