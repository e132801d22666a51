"""The classifier as a whole: parameters, inputs, names."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from cssm import SimpleCSSM, SpectralClassifier
from cssm.norms import batch_norm
from cssm.readout import PooledReadout
from cssm.simple import POSITIONS
from cssm.stem import max_pool_2x2

GATES = ("decay_Q", "decay_K", "decay_A", "w_qk", "alpha", "gamma", "B_Q", "B_K", "B_A", "C_gate")


def small(**options: Any) -> SpectralClassifier:
    return SimpleCSSM(**{"embed_dim": 8, "kernel_size": 3, "seq_len": 3, **options})


def images(height: int = 9, width: int = 14, *, batch: tuple[int, ...] = (2,)) -> np.ndarray:
    shape = (*batch, height, width, 3)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def flat(tree: Any) -> dict[str, Any]:
    return flatten_dict(tree, sep="/")  # pyright: ignore[reportReturnType]


def shapes_of(model: SpectralClassifier, x: Any) -> dict[str, tuple[int, ...]]:
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), x)
    assert shapes.keys() == {"params"}
    return {name: leaf.shape for name, leaf in flat(shapes["params"]).items()}


def random_params(model: nn.Module, x: np.ndarray) -> Any:
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: 0.4 * rng.standard_normal(s.shape).astype(np.float32), shapes)


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params, x):
    return model.apply({"params": params}, x, training=False)


@functools.partial(jax.jit, static_argnums=0)
def logits_and_intermediates(model, params, x):
    return model.apply({"params": params}, x, mutable=["intermediates"])


@pytest.mark.parametrize("depth", [1, 2])
def test_parameter_tree(depth: int) -> None:
    """Names and shapes of the public code, for a map of 8 x 6 and 8 x 4 frequencies."""
    model = SimpleCSSM(num_classes=4, embed_dim=6, depth=depth, kernel_size=7)
    dense = {"input_proj": (6, 18), "output_proj": (18, 6)} | dict.fromkeys(GATES, (6, 32))
    expected = {"conv1/kernel": (3, 3, 3, 6), "conv2/kernel": (3, 3, 6, 6), "head/kernel": (6, 4)}
    expected |= {"conv1/bias": (6,), "conv2/bias": (6,), "head/bias": (4,)}
    for norm in ("norm1", "norm2", "norm_pre", "norm_post"):
        expected |= {f"{norm}/scale": (6,), f"{norm}/bias": (6,)}
    for block in (f"cssm_{i}" for i in range(depth)):
        expected[f"{block}/kernel"] = (6, 7, 7)
        for name, shape in dense.items():
            expected |= {f"{block}/{name}/kernel": shape, f"{block}/{name}/bias": shape[1:]}
    assert shapes_of(model, jnp.zeros((1, 32, 24, 3))) == expected


@pytest.mark.parametrize(("width", "count"), [(32, 559_858), (64, 1_134_194), (128, 2_375_026)])
def test_parameter_count_at_224_pixels(width: int, count: int) -> None:
    shapes = shapes_of(SimpleCSSM(embed_dim=width), jnp.zeros((1, 224, 224, 3)))
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == count


def test_initial_parameters() -> None:
    """Standard deviations of the public code's initialisers; biases zero and scales one."""
    model = SimpleCSSM(embed_dim=32, kernel_size=5)
    key = jax.random.key(0, impl="rbg")  # compiles faster than the default generator
    params = jax.jit(model.init)(key, jnp.zeros((1, 32, 32, 3)))["params"]
    deviations: dict[str, float] = {f"cssm_0/{name}": 32**-0.5 for name in GATES}
    deviations |= {"conv1": 27**-0.5, "conv2": (9 * 32) ** -0.5, "head": 32**-0.5}
    deviations |= {"cssm_0": (32 * 5) ** -0.5}
    deviations |= {"cssm_0/input_proj": 32**-0.5, "cssm_0/output_proj": 96**-0.5}
    for name, value in flat(params).items():
        module, kind = name.rsplit("/", 1)
        if kind == "kernel":
            # five standard errors of a sample standard deviation
            tolerance = 5 * deviations[module] / np.sqrt(2 * value.size)
            assert abs(np.std(value) - deviations[module]) < tolerance, name
        else:
            np.testing.assert_array_equal(value, 1.0 if kind == "scale" else 0.0)


EASY = ("spatial_only", "temporal", "separate", "sinusoidal")
"""Positions that are made of what the others are made of."""


@pytest.mark.parametrize(
    "pos_embed",
    [pytest.param(p, marks=pytest.mark.slow if p in EASY else ()) for p in POSITIONS],
)
def test_still_image_equals_its_repetition(pos_embed: str) -> None:
    model, still = small(pos_embed=pos_embed), images()
    params = random_params(model, still)
    video = np.repeat(still[:, None], 3, axis=1)
    np.testing.assert_allclose(
        logits(model, params, still), logits(model, params, video), rtol=1e-4, atol=1e-5
    )


def test_videos_may_have_other_lengths_than_seq_len() -> None:
    model = small(seq_len=3)
    shorter, longer = (shapes_of(model, images(batch=(2, steps))) for steps in (1, 5))
    assert shorter == longer == shapes_of(model, images())


def test_frames_are_told_apart() -> None:
    model, video = small(), images(batch=(2, 3))
    params = random_params(model, video)
    forward = logits(model, params, video)
    assert np.abs(forward - logits(model, params, video[:, ::-1])).max() > 1e-3


def test_second_block_adds_to_the_first() -> None:
    """With a silent second block, two blocks are one; with a loud one they are not."""
    model, video = small(depth=2), images(batch=(2, 3))
    params = random_params(model, video)
    one = {name: value for name, value in params.items() if name != "cssm_1"}
    silent = jax.tree.map(np.zeros_like, params["cssm_1"]["output_proj"])
    muted = params | {"cssm_1": params["cssm_1"] | {"output_proj": silent}}
    expected = logits(small(), one, video)
    np.testing.assert_allclose(logits(model, muted, video), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(logits(model, params, video) - expected).max() > 1e-2


def test_deep_model_treats_a_still_image_as_its_repetition() -> None:
    model, still = small(depth=2), images()
    params = random_params(model, still)
    video = np.repeat(still[:, None], 3, axis=1)
    np.testing.assert_allclose(
        logits(model, params, still), logits(model, params, video), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("size", [(4, 4), (9, 14), (5, 7)])
def test_any_image_size_gives_a_quarter_of_it_rounded_up(size: tuple[int, int]) -> None:
    logits_shape, sown = jax.eval_shape(
        lambda x: small().init_with_output(
            jax.random.key(0), x, mutable=["intermediates", "params"]
        ),
        images(*size),
    )
    assert logits_shape.shape == (2, 2)
    height, width = ((side + 3) // 4 for side in size)
    assert sown["intermediates"]["pre_cssm"][0].shape[-3:] == (height, width, 8)


@pytest.mark.parametrize("size", [(4, 6), (5, 6), (4, 7), (5, 5), (1, 1)])
def test_pooling_keeps_an_odd_last_row_and_column(size: tuple[int, int]) -> None:
    x = images(*size) - 5.0  # all negative: padding by zeros would win
    pooled = np.asarray(max_pool_2x2(jnp.asarray(x)))
    assert pooled.shape == (2, -(-size[0] // 2), -(-size[1] // 2), 3)
    for i, j in np.ndindex(*pooled.shape[1:3]):
        window = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_array_equal(pooled[:, i, j], window.max((1, 2)))


def test_readout_pools_between_two_norms() -> None:
    """Layer norm, activation, maximum over time and space, layer norm, linear, in NumPy."""
    readout, x = PooledReadout(2, jax.nn.relu, jnp.max), images(4, 5, batch=(2, 3))
    params = random_params(readout, x)

    def layer_norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + 1e-6)
        return scaled * params[name]["scale"] + params[name]["bias"]

    pooled = np.maximum(layer_norm(x.astype(np.float64), "norm_pre"), 0.0).max((1, 2, 3))
    expected = layer_norm(pooled, "norm_post") @ params["head"]["kernel"] + params["head"]["bias"]
    out = jax.jit(readout.apply)({"params": params}, x)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_intermediates_on_request_leave_the_logits_as_they_are() -> None:
    model, still = small(depth=2), images()
    params = random_params(model, still)
    out, sown = logits_and_intermediates(model, params, still)
    np.testing.assert_allclose(out, logits(model, params, still), rtol=1e-4, atol=1e-5)
    names = {"pre_cssm", "post_cssm"}
    names |= {f"cssm_{i}/{name}" for i in (0, 1) for name in ("states", "gates")}
    sown = flat(sown["intermediates"])
    assert sown.keys() == names
    assert all(len(values) == 1 for values in sown.values())
    assert sown["cssm_0/gates"][0].keys() == set(GATES)


@pytest.mark.parametrize("pos_embed", ["none", "spatiotemporal", "separate", "sinusoidal"])
def test_odd_width_is_refused(pos_embed: str) -> None:
    with pytest.raises(ValueError, match="even number of channels; got 5"):
        shapes_of(small(embed_dim=5, pos_embed=pos_embed), images())


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        (
            "cssm_type",
            r"\['gated', 'gdn', 'gdn_4', 'hgru_bi', 'hgru_bi_stable', 'no_fft', 'opponent', ",
        ),
        (
            "pos_embed",
            r"\['learnable', 'mrope', 'none', 'separate', 'sinusoidal', 'spatial_only', ",
        ),
        ("norm_type", r"\['batch', 'layer'\]"),
        ("readout", r"\['all', 'last'\]"),
        ("act_type", r"\['gelu', 'relu', 'softplus'\]"),
        ("act", r"\['gelu', 'relu', 'softplus'\]"),
        ("pool", r"\['max', 'mean'\]"),
        ("dtype", r"\['bfloat16', 'float32'\]"),
        ("param_dtype", r"\['bfloat16', 'float32'\]"),
        ("origin", r"\('centre', 'upstream'\)"),
        ("boundary", r"\('circular', 'zero'\)"),
    ],
)
def test_unknown_names_list_the_choices(option: str, choices: str) -> None:
    field = option.removesuffix("_type") if option == "act_type" else option
    with pytest.raises(ValueError, match=f"{field} is 'magic'; choose one of {choices}"):
        shapes_of(small(**{option: "magic"}), images())


@pytest.mark.parametrize("field", ["num_classes", "embed_dim", "depth", "kernel_size", "seq_len"])
def test_sizes_below_one_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is 0; expected 1 or more"):
        SimpleCSSM(**{field: 0})


def test_inputs_of_another_rank_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected images .* got \(8, 8\)"):
        SimpleCSSM(embed_dim=2).init(jax.random.key(0), jnp.zeros((8, 8)))


def test_public_argument_names_mean_the_same() -> None:
    ours = SimpleCSSM(act="gelu", pool="max", readout="all")
    assert SimpleCSSM(act_type="gelu", pool_type="max", frame_readout="all") == ours
    notebook: Any = {"num_classes": 2, "embed_dim": 64, "depth": 1, "cssm_type": "transformer"}
    notebook |= {"kernel_size": 15, "pos_embed": "spatiotemporal", "seq_len": 8}
    assert SimpleCSSM(**notebook) == SimpleCSSM()


@pytest.mark.parametrize("still", [False, True])
def test_all_frames_are_read_where_asked_for(still: bool) -> None:
    """The readout of all frames is that of what `post_cssm` holds; the last alone gives another."""
    model, video = small(readout="all", pool="max"), images(batch=(2, 3))
    params = random_params(model, video)
    x = video[:, 0] if still else video
    out = logits(model, params, x)
    expected, sown = logits_and_intermediates(
        model, params, video[:, :1].repeat(3, axis=1) if still else video
    )
    (frames,) = sown["intermediates"]["post_cssm"]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    readout = PooledReadout(2, jax.nn.softplus, jnp.max)
    parts = {name: params[name] for name in ("norm_pre", "norm_post", "head")}
    np.testing.assert_allclose(logits_of(readout, parts, frames), expected, rtol=1e-4, atol=1e-5)
    last = logits(small(pool="max"), params, x)
    assert np.abs(last - expected).max() > 1e-3


@functools.partial(jax.jit, static_argnums=0)
def logits_of(readout, params, frames):
    return readout.apply({"params": params}, frames)


def random_statistics(model: nn.Module, x: np.ndarray) -> Any:
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), x)["batch_stats"]
    rng = np.random.default_rng(4)
    return jax.tree.map(lambda s: rng.uniform(0.5, 2.0, s.shape).astype(np.float32), shapes)


def test_batch_norms_take_the_statistics_of_the_checkpoint() -> None:
    """Running mean and variance are a scale and a shift, which the kernel before can also make."""
    model, video = small(norm_type="batch"), images(batch=(2, 3))
    params, statistics = random_params(model, video), random_statistics(model, video)
    assert statistics.keys() == {"norm1", "norm2", "norm_pre", "norm_post"}
    shift = {}
    for name, past in statistics.items():
        scale = params[name]["scale"] / np.sqrt(past["var"] + 1e-5)
        shift[name] = {"scale": scale, "bias": params[name]["bias"] - past["mean"] * scale}
    plain = jax.tree.map(lambda s: np.zeros_like(s), statistics)
    for past in plain.values():
        past["var"] = past["var"] + np.float32(1.0 - 1e-5)

    @jax.jit
    def run(params, statistics):
        return model.apply({"params": params, "batch_stats": statistics}, video, training=False)

    out = run(params, statistics)
    np.testing.assert_allclose(out, run(params | shift, plain), rtol=1e-4, atol=1e-4)
    assert np.abs(out - run(params, plain)).max() > 1e-3


def test_batch_norms_learn_in_training() -> None:
    """Statistics move by a hundredth of the way to those of the batch."""
    readout, x = (
        PooledReadout(2, jax.nn.relu, jnp.mean, norm=batch_norm),
        images(4, 5, batch=(2, 3)),
    )
    params, statistics = random_params(readout, x), random_statistics(readout, x)

    @jax.jit
    def run(params, statistics):
        variables = {"params": params, "batch_stats": statistics}
        return readout.apply(variables, x, training=True, mutable=["batch_stats"])

    _, updated = run(params, statistics)
    mean, variance = x.mean((0, 1, 2, 3)), x.var((0, 1, 2, 3))
    old, new = statistics["norm_pre"], updated["batch_stats"]["norm_pre"]
    np.testing.assert_allclose(new["mean"], 0.99 * old["mean"] + 0.01 * mean, rtol=1e-4)
    np.testing.assert_allclose(new["var"], 0.99 * old["var"] + 0.01 * variance, rtol=1e-4)


def transforms(model: SpectralClassifier, x: np.ndarray) -> list[int]:
    """Numbers of maps that each FFT of the forward pass takes."""
    params = random_params(model, x)
    program = jax.make_jaxpr(lambda x: model.apply({"params": params}, x))(x)
    shapes = re.findall(r"\w+\[([\d,]+)\] = fft\[", str(program))
    return [int(np.prod([int(n) for n in shape.split(",")[:-2]])) for shape in shapes]


def test_still_image_is_transformed_once_for_all_steps() -> None:
    """Width 8: one transform of the kernels, one of the image, one of the last state, each of 8."""
    model = small(seq_len=5)
    assert sorted(transforms(model, images(batch=(1,)))) == [8, 8, 8]
    assert sorted(transforms(model, images(batch=(1, 5)))) == [8, 8, 40]
