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
# # Train a small model and watch it answer
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)
#
# **Question:** can a model of 31,506 numbers, which looks at a picture eight times, learn in a few
# minutes on two CPU cores to say whether two dots are the ends of one dashed contour?
#
# About four minutes, no GPU, no download of data. In Colab, the badge opens the dialog in which you
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
from common.analysis import attribution_maps, image_grid, learning_curves
from common.train import read_records
from experiments.analyses import causes, open_subject
from experiments.cli import load_config
from experiments.pathfinder import train_and_evaluate
from experiments.reports.run import CLASSES

assert Path(common.__file__).is_relative_to(ROOT), f"another 'common': {common.__file__}"
FAST = bool(os.environ.get("CSSM_LAB_FAST"))
print("running", "in Colab" if IN_COLAB else "locally", "with", ROOT.name)

# %% [markdown]
# ## The task
#
# Pathfinder: two discs lie on dashed contours among distractors. Are they the two ends of *one*
# contour? The images are generated here. They come in pairs that differ only in where the second
# disc is, at places equally far from the first one, so that no distance gives the answer away.

# %%
overrides = {}
if FAST:  # a few steps, for tests
    overrides = {"train.steps": 4, "train.log_every": 2, "train.eval_every": 4}
    overrides |= {"train.checkpoint_every": 4, "train.batch_size": 8, "optim.warmup_steps": 1}
    overrides |= {"data.train_count": 64, "data.validation_count": 8, "data.test_count": 16}
WORKDIR = os.environ.get("CSSM_LAB_WORKDIR", "runs/quickstart")
overrides["data.cache"] = str(Path(WORKDIR).parent / "data")
config = load_config("experiments/configs/family.py:transformer", overrides)
print(config.model, config.data, sep="\n")

# %% [markdown]
# ## Training
#
# One call. It prints its progress; stopped and called again, it goes on where it was. For a while
# nothing seems to happen: the loss stays at log 2 = 0.693 nats, a guess, and then falls within a few
# hundred steps.

# %%
result = train_and_evaluate(config, WORKDIR)
print({split: round(result[split]["accuracy"], 3) for split in ("validation", "test")})

# %%
learning_curves(read_records(Path(WORKDIR, "metrics.jsonl")), chance=0.5)

# %% [markdown]
# ## What it says
#
# The run's folder is all that is needed to open the model again. Above each of these test images is
# what it is, and the probability that the model gives to a connection.

# %%
subject = open_subject(WORKDIR, count=16 if FAST else 256)
shown = subject.images[:12]
answers = subject.run.predictions.probability[:12]
captions = [f"{CLASSES[label]}\n{p:.0%}" for label, p in zip(subject.labels, answers, strict=False)]
image_grid(shown, captions)

# %% [markdown]
# ## When it knows, and where it looks
#
# If the model is read after each step, when does it know? And which pixels would move its answer?

# %%
from common.analysis import answers_over_time

answers_over_time(causes.answers_by_step(subject), subject.labels, CLASSES)

# %%
from experiments.reports.measurements import pixel_attribution

chosen = subject.examples(3)
images, labels = subject.images[chosen], subject.labels[chosen]
maps = pixel_attribution(subject.run.task, subject.params, images, labels, steps=8)
attribution_maps(images, maps.sum(1), [CLASSES[label] for label in labels])

# %% [markdown]
# ## Where to go from here
#
# - `transformer_cssm_iterative_attention`: what the model computes, from the Fourier transform up.
# - `transformer_cssm_interpretability`: a larger trained model taken apart, with causal tests.
# - `checkpoints`: load a checkpoint of the public code, convert it, compare.
# - `python -m experiments.analyze --checkpoint=runs/quickstart --out=runs/quickstart/analysis` writes
#   all analyses of this model as one page.
