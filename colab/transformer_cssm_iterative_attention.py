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
# # TransformerCSSM: iterative attention for visual reasoning
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/)
#
# **Question:** what does a model compute that is built from three coupled linear states, Q, K and A,
# and iterates them?
#
# 1. What is CSSM? 2. The transformer's trick. 3. When iteration helps: Pathfinder. 4. CSSM as a
# parallel RNN. 5. What the hGRU taught. 6. TransformerCSSM. 7. to 9. A trained model: gates, kernels,
# answers, gradients.
#
# The model here is small and trained on images that the repository generates (97.9 % of 4,000 test
# images; `colab/checkpoints/README.md`). The public code reports **88.50 %** on Pathfinder-14 for its
# model; that is their figure, not repeated here, and it is to be read beside the shortcut of section 3.

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
import numpy as np
from common.analysis import attribution_over_time, image_grid, kernel_gradients, kernel_grid
from common.analysis import mechanisms, receptive_fields
from common.checkpoints import load_checkpoint
from common.data.pathfinder import PathfinderSettings, draw_images
from experiments.analyses import cost, gradients, open_subject, recurrence
from experiments.benchmarks.timing import print_table
from experiments.reports.run import CLASSES

assert Path(common.__file__).is_relative_to(ROOT), f"another 'common': {common.__file__}"
FAST = bool(os.environ.get("CSSM_LAB_FAST"))
CHECKPOINT = os.environ.get("CSSM_LAB_CHECKPOINT", "colab/checkpoints/pathfinder_64.pkl")
DATA = os.environ.get("CSSM_LAB_DATA")  # TFRecords or PNG files of yours; else generated images

# %% [markdown]
# # Part I: Background
#
# ## 1. What is CSSM?
#
# **CSSM (cepstral state space model)** is a recurrent network for images whose recurrence is linear:
#
# $$h_{t+1} = A \cdot h_t + B \cdot x_t$$
#
# Computed as it stands, each step waits for the one before: O(T) steps in a row.
#
# **Why the spectral domain?** Convolution is a product there:
#
# $$\mathrm{Conv}(K, X) = \mathcal{F}^{-1}\left(\mathcal{F}(K) \odot \mathcal{F}(X)\right)$$
#
# For a kernel as large as the map of N cells, that is O(N log N) instead of O(N²) operations. (A small
# kernel of k × k cells costs O(N k²) directly, and the direct sum is then the faster one.) The greater
# gain is another: frequencies do not mix, so the whole recurrence becomes one tiny matrix per
# frequency and channel. Convolution by FFT is circular: what leaves the map on one side enters on
# the other.
#
# **Why log-space (GOOM)?** Products of many numbers explode or vanish,
#
# $$h_T = \lambda^T \cdot h_0, \qquad \log(a \cdot b) = \log(a) + \log(b),$$
#
# and sums of logarithms do not overflow. This keeps numbers representable; it does not keep a state
# that grows from growing. At 8 steps nothing overflows, and the model here computes in plain float32
# (`common.kernels.goom` has the log-space scan).

# %% [markdown]
# ## 2. The transformer's trick: attention at once
#
# $$\mathrm{Attention}(Q, K, V) = \mathrm{softmax}\left(\frac{QK^T}{\sqrt{d}}\right) V$$
#
# - **Q (query)**: what am I looking for? **K (key)**: what do I contain? **V (value)**: what do I carry?
#
# The *product* of Q and K compares all pairs of positions in one shot.
#
# **The good:** no sequence within a layer, every position sees every other one, matrix products that
# hardware likes. **The catch:** O(N²) pairs, and one layer compares once. To refine, layers are
# stacked; whether a deep stack can 'backtrack' is a matter of what it learns, not of its form.

# %% [markdown]
# ## 3. When iteration helps: the Pathfinder task
#
# **Do the two dots end one contour?** Contours can be long and winding, distractors look the same. One
# strategy is to start at a dot, follow the curve locally, extend, and turn back at a dead end.
#
# The public images come in levels: contours of 9 paddles (easier), 14, and 20 (harder). In them,
# connected dots tend to be nearer than unconnected ones, and *the distance between the dots alone*
# tells some 87 / 77 / 61 % of images at contours of 6 / 9 / 14 paddles (docs/data.md). An accuracy is to be
# read against that. The images that this model was trained on come in pairs with the same distance (50 %).

# %%
levels = [PathfinderSettings(128, length, layout="reference") for length in (9, 14, 20)]
public = np.concatenate([draw_images(settings, 3, 0, 2).images for settings in levels])
captions = [f"{level.contour_length} paddles\n{word}" for level in levels for word in CLASSES[::-1]]
image_grid(public, captions)

# %% [markdown]
# **A standard transformer** sees local structure in its first layers and needs depth for long curves.
# **An RNN** iterates naturally: each step refines, information spreads, more steps see farther. But
# its steps wait for each other.
#
# ## 4. CSSM: an RNN that can run in parallel (but limited)
#
# For a *linear* recurrence $h_{t+1} = A_t h_t + b_t$ the combination of steps is associative,
#
# $$(A_2, b_2) \circ (A_1, b_1) = (A_2 A_1,\; A_2 b_1 + b_2),$$
#
# so that steps can be combined in a tree:
#
# ```
# t=0    t=1    t=2    t=3    t=4    t=5    t=6    t=7
#   \    /        \    /        \    /        \    /
#    [0:1]         [2:3]         [4:5]         [6:7]      level 1
#       \          /                \          /
#        [0:3]                       [4:7]                level 2
#            \                      /
#                      [0:7]                              level 3
# ```
#
# Three levels give the *last* state; the states in between need a way down again, 5 levels in all for
# T = 8 (2 log₂T − 1). And a shorter depth is **not less work**: the tree multiplies matrices where a
# step multiplies a vector. Measured here, with the same states as result:

# %%
costs = cost.scan_costs((2, 8) if FAST else (2, 4, 8, 16, 32, 64), repeats=1 if FAST else 3)
print_table([row._asdict() for row in costs if row.steps in (8, 64)])
cost.draw_scan_costs(costs)

# %% [markdown]
# **The limitation.** A plain CSSM has a *single state*, $h_{t+1} = \lambda h_t + \text{input}$: like a
# transformer with one of Q, K and V.
#
# ## 5. What the hGRU taught
#
# The **hGRU** (horizontal gated recurrent unit) solves Pathfinder with excitatory cells X that spread
# along contours and inhibitory cells Y that suppress. Its step has *products of states*, in plain
# words $Y_{t+1} \propto X_t \odot Y_t$, and is not linear. So it cannot be scanned, and TransformerCSSM,
# being linear, does not have these products.
#
# **Growing receptive fields.** Each step carries information through the kernel once more: at t = 1 to
# the neighbours, at t = 4 to a neighbourhood, at t = 8 to a large region, 'attention with a growing
# radius'. That much is kept. How far does it reach in the trained model? Gradients tell:

# %%
subject = open_subject(CHECKPOINT, DATA, count=16 if FAST else 256)
fields, radii = recurrence.reach(subject)
print(*(f"{name}: {radius[::-1].round(1)} pixels" for name, radius in radii.items()), sep="\n")
receptive_fields(fields, radii)

# %% [markdown]
# # Part II: TransformerCSSM
#
# ## 6. Three states
#
# | State | Name | Question | What it is |
# |---|---|---|---|
# | **Q** | query | what am I looking for? | the current representation |
# | **K** | key | what do I contain? | its symmetric partner |
# | **A** | attention | what have I found? | decaying **sum** of Q and K |
#
# $$Q_{t+1} = \underbrace{\lambda_Q Q_t}_{\text{remember}} + \underbrace{w\,(\mathcal{K} * K_t)}_{\text{look at K}} + \underbrace{\alpha\,(\mathcal{K} * A_t)}_{\text{feedback}} + \underbrace{U_Q}_{\text{input}}$$
#
# $$K_{t+1} = \underbrace{w\,(\mathcal{K} * Q_t)}_{\text{look at Q}} + \underbrace{\lambda_K K_t}_{\text{remember}} + \underbrace{U_K}_{\text{input}}$$
#
# $$A_{t+1} = \underbrace{\gamma\,(Q_t + K_t)}_{\text{accumulate}} + \underbrace{\lambda_A A_t}_{\text{remember}} + \underbrace{U_A}_{\text{input}}$$
#
# In matrix form, at every frequency,
#
# $$\begin{bmatrix} Q \\ K \\ A \end{bmatrix}_{t+1} = \begin{bmatrix} \lambda_Q & w\,\mathcal{K} & \alpha\,\mathcal{K} \\ w\,\mathcal{K} & \lambda_K & 0 \\ \gamma & \gamma & \lambda_A \end{bmatrix} \begin{bmatrix} Q \\ K \\ A \end{bmatrix}_t + \begin{bmatrix} U_Q \\ U_K \\ U_A \end{bmatrix}.$$
#
# **Why this form?** Q and K act on each other through one kernel with the same weight w; the kernel's
# reach grows with the steps; A keeps a record and feeds back into Q; all is linear, so it can be
# scanned.
#
# **What A is not.** It adds up Q and K. There is no product of Q and K anywhere and no softmax: A is no
# matrix of attention weights and no correlation of Q with K. Each U is the input under a projection
# and a gate of its own; every gate is a number for each time and frequency, read off the mean of the
# image; the decays lie in (0.1, 0.99); and the spectrum of $\mathcal{K}$ is bounded below 1 in magnitude.

# %%
from cssm.recurrence import transition_matrices

matrices = transition_matrices(subject.model, {"params": subject.params}, subject.frames([0]))
one = np.asarray(matrices["cssm_0"])[0, 0, 2, 1, 0]  # step, image, frequencies, channel
print("M at the first step, one frequency, one channel (rows and columns Q, K, A):")
print(one.round(3))

# %% [markdown]
# **Sequential or parallel, the same recurrence.**
#
# ```
# for t in range(T):                                        states = associative_scan(combine, inputs)
#     Q[t+1] = λ_Q·Q[t] + w·(K * K[t]) + α·(K * A[t]) + U
#     K[t+1] = w·(K * Q[t]) + λ_K·K[t] + U
#     A[t+1] = γ·(Q[t] + K[t]) + λ_A·A[t] + U
# ```
#
# Depth O(T) and work O(T) on the left, depth O(log T) and *more* work and memory on the right (section
# 4). On a CPU the loop is the faster one, and what `linear_scan` takes there.
#
# # Part III: Hands on
#
# ## 7. A trained model

# %%
content = load_checkpoint(CHECKPOINT)
print("step", content.get("step"), "epoch", content.get("epoch"))
print("of the block:", sorted(content["params"]["cssm_0"]))
print("kernel:", content["params"]["cssm_0"]["kernel"].shape)
numbers = subject.examples(3)
answers = subject.run.predictions.probability[numbers]
kinds = [CLASSES[label] for label in subject.labels[numbers]]
for kind, p in zip(kinds, answers, strict=True):
    print(f"{kind:>13}: P(connected) = {p:.3f} → {CLASSES[int(p > 0.5)]}")
image_grid(subject.images[numbers], kinds)

# %% [markdown]
# **Gate values.** The seed of this notebook took the sigmoid of the mean weight plus the mean bias for
# every gate. No gate has that value at any time, and for the decays it leaves out their bounds
# (0.1 + 0.89 sigmoid). Beside it, what is measured on images:

# %%
readings = recurrence.read_gates(subject, "cssm_0")
print_table([{"gate": name} | reading._asdict() for name, reading in readings.items()])

# %% [markdown]
# **The kernels**, one for each channel, strongest first, shared by Q↔K and A→Q; below, their mean.

# %%
kernels = subject.run.anatomy.kernels["cssm_0"]
display(kernel_grid(kernels[:32]), kernel_grid(kernels.mean(0)[None], columns=4))

# %% [markdown]
# ## 8. Which frames count?
#
# The still image is shown as a film of equal frames. How much would a small change of each frame move
# the logit of the true answer?

# %%
maps, numbers = gradients.step_maps(subject)
film = maps.sum((-2, -1))
print("connected:    ", film[0].round(2))
print("not connected:", film[1].round(2))
attribution_over_time(film, subject.labels[numbers], CLASSES)

# %% [markdown]
# ## 9. Which mechanisms count?
#
# Gradients with respect to each gate's parameters and to the kernel, by kind of image. They say what a
# small change would do, not what a mechanism is needed for; that takes interventions (see
# `transformer_cssm_interpretability`).

# %%
found = gradients.mechanism_gradients(subject, "cssm_0")
shown = {name: found.magnitudes[name] for name in ("w_qk", "alpha", "gamma")}
shown |= {name: found.magnitudes[name] for name in ("decay_Q", "decay_K", "decay_A")}
rows = {name: [m[found.labels == i].mean() for i in (1, 0)] for name, m in shown.items()}
print_table([{"gate": n, "connected": a, "not connected": b} for n, (a, b) in rows.items()])
display(mechanisms(shown, found.labels, CLASSES))
kernel_gradients(tuple(found.kernels["kernel"]), CLASSES)

# %% [markdown]
# # Summary
#
# | Component | Comes from | Gives |
# |---|---|---|
# | Q-K coupling | transformers, loosely | two states that act on each other; no product, no softmax |
# | growing receptive field | hGRU | local, then global |
# | associative scan | state space models | O(log T) depth, for more work |
# | accumulator A | this model | memory of the sum of Q and K, fed back |
#
# $$Q_{t+1} = \lambda_Q Q_t + w (\mathcal{K} * K_t) + \alpha (\mathcal{K} * A_t) + U_Q$$
# $$K_{t+1} = w (\mathcal{K} * Q_t) + \lambda_K K_t + U_K$$
# $$A_{t+1} = \gamma (Q_t + K_t) + \lambda_A A_t + U_A$$
#
# | Model | Pathfinder-14, as the public notebook reports | here, matched layout, 5 paddles |
# |---|---|---|
# | transformer, 12 layers | about 75 % | not run at this size |
# | hGRU, sequential | about 90 % | not run at this size |
# | TransformerCSSM | 88.50 % | 97.9 % [97.4, 98.3] |
# | distance between the dots alone | some 61 % | 50.0 % |
#
# The two columns are other images and other sizes; they are not to be compared. The left one is not
# repeated here.
#
# **Takeaways.** A CSSM is a linear RNN that can run in parallel. One state is little; Q, K and A add
# interaction and memory. What is called attention is a decaying sum with feedback.
