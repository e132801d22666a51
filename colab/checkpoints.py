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
# # Load a checkpoint of the public code, convert it, compare
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)
#
# **Question:** does a pickle of the public CSSM code give the same numbers here?
#
# Without a file of yours, this notebook takes one that the repository holds for its tests: random
# parameters as the public notebooks' model has them (64 channels, kernel 15, 8 steps), with the
# logits that the public code computed from them in float64. Set `CSSM_LAB_CHECKPOINT` in the
# environment to the path of a pickle of your own.

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
from common.analysis import kernel_grid
from common.checkpoints import load_checkpoint, load_pickle, verify_checkpoint
from cssm import checkpoint_to_model

assert Path(common.__file__).is_relative_to(ROOT), f"another 'common': {common.__file__}"
GOLDEN = ROOT / "tests/cssm/golden/transformer_64_e64_k15_notebook"
CHECKPOINT = Path(os.environ.get("CSSM_LAB_CHECKPOINT", GOLDEN / "checkpoint.pkl"))

# %% [markdown]
# ## What is in the file
#
# A pickle can run any code when it is opened with `pickle.load`. This reader runs none: it knows
# dicts, lists, numbers, text and NumPy's arrays, and refuses everything else by name.

# %%
content = load_pickle(CHECKPOINT)
print("holds:", sorted(content))
print("at the top:", sorted(content["params"]))
print("of the block:", sorted(content["params"]["cssm_0"]))

# %%
from common.checkpoints.__main__ import main as checkpoints

assert checkpoints(["inspect", str(CHECKPOINT)]) == 0

# %% [markdown]
# ## The model it belongs to
#
# Width, depth, block and kernel size are read off the parameters. What cannot be seen there (steps,
# position code, nonlinearity, pooling) is as in the public notebooks unless the file or you say
# otherwise: `checkpoint_to_model(path, seq_len=8, pos_embed="spatiotemporal")`.

# %%
model, variables = checkpoint_to_model(CHECKPOINT)
count = sum(leaf.size for leaf in jax.tree.leaves(variables))
print(
    f"{type(model.blocks[0]).__name__}, {model.blocks[0].channels} channels, {count:,} parameters"
)
kernel_grid(np.asarray(variables["params"]["cssm_0"]["kernel"])[:32])

# %% [markdown]
# ## The same numbers?
#
# The public code lays its kernels out from another origin (`origin="upstream"`), which
# `checkpoint_to_model` takes over. The logits are compared with those recorded from the public code
# in double precision; here everything is in single precision.

# %%
with np.load(GOLDEN / "expected.npz") as arrays:
    expected = dict(arrays)
ours, x = checkpoint_to_model(GOLDEN / "checkpoint.pkl"), expected["x"]
logits = np.asarray(jax.jit(ours[0].apply)(ours[1], x))
error = np.abs(logits - expected["logits_f64"]).max() / np.abs(expected["logits_f64"]).max()
print("here:", logits.round(5), "there:", expected["logits_f64"].round(5), sep="\n")
print(f"largest difference: {error:.1e} of the largest logit")
assert error < 1e-4

# %% [markdown]
# The same for gradients: how much each frame of the film would move the first image's logit for
# 'connected', as the public interpretability notebook measures it.

# %%
from common.analysis import temporal_attribution

film = np.repeat(x[:1, None], 8, 1)
apply = jax.jit(
    lambda frames: temporal_attribution(lambda f: ours[0].apply(ours[1], f), frames, [1])
)
found, recorded = np.asarray(apply(film))[0], expected["input_grad_abs_per_timestep"]
print("here: ", found.round(3), "there:", recorded.round(3), sep="\n")
np.testing.assert_allclose(found, recorded, rtol=1e-3)

# %% [markdown]
# ## Converting
#
# To Orbax, to safetensors, and back: every bit returns. Orbax folders and safetensors files carry a
# digest of each array, so that damage is found by name.

# %%
import tempfile

folder = Path(tempfile.mkdtemp())
for name in ("orbax", "model.safetensors", "again.pkl"):
    checkpoints(["convert", str(CHECKPOINT), str(folder / name)])
    again = load_checkpoint(folder / name)["params"]
    jax.tree.map(np.testing.assert_array_equal, again, content["params"])
print(verify_checkpoint(folder / "orbax").split(": ")[-1])

# %% [markdown]
# ## A checkpoint of this project
#
# Exported from a run's folder, a checkpoint also holds the run's config, and needs no arguments.

# %%
own, _ = checkpoint_to_model(ROOT / "colab/checkpoints/pathfinder_64.pkl")
config = load_pickle(ROOT / "colab/checkpoints/pathfinder_64.pkl")["config"]
print(own.seq_len, "steps;", config["model"])

# %% [markdown]
# To take a model apart: `python -m experiments.analyze --checkpoint=PATH --out=DIR`, or the notebook
# `transformer_cssm_interpretability`.
