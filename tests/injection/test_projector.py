"""Feature selection, projection and replacement of image tokens; spatial tokens against torch's."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from common.injection import (
    DetailIntegrator,
    LinearProjector,
    MLPProjector,
    NoDetail,
    ReplaceTokens,
    SpatialProjector,
    SpatialTokens,
    VisionProjector,
    central_crops,
    pooled_grids,
    replace_tokens,
    select_features,
)
from tests.injection.draws import float64, noisy, normal, require_finite_gradients

STATES = [normal(n, 2, 5, 3) for n in range(4)]


@pytest.mark.parametrize(
    ("layers", "strategy", "expected"),
    [
        (-2, "default", STATES[2][:, 1:]),
        (0, "full", STATES[0]),
        ((3, 1), "default", np.concatenate([STATES[3], STATES[1]], -1)[:, 1:]),
        ([-1, -4, -1], "full", np.concatenate([STATES[3], STATES[0], STATES[3]], -1)),
    ],
)
def test_layers_are_selected_and_joined(layers, strategy, expected):
    np.testing.assert_array_equal(select_features(STATES, layers, strategy), expected)
    np.testing.assert_array_equal(select_features(np.stack(STATES), layers, strategy), expected)


@pytest.mark.parametrize(
    ("layers", "strategy", "message"),
    [
        (4, "full", r"layers \[4\] of 4 hidden states"),
        (-5, "full", r"layers \[-5\] of 4"),
        ((), "default", r"layers \[\] of 4"),
        (0, "cls", "strategy is 'cls'; choose 'default' or 'full'"),
    ],
)
def test_a_selection_that_is_none_is_refused(layers, strategy, message):
    with pytest.raises(ValueError, match=message):
        select_features(STATES, layers, strategy)


def test_the_projectors_follow_their_equations():
    x = normal(0, 2, 3, 5)
    linear, mlp = LinearProjector(7), MLPProjector(7, activation=jnp.tanh)
    variables = noisy(linear, x)
    found, p = linear.apply(variables, x), float64(variables["params"]["linear_1"])
    np.testing.assert_allclose(found, x @ p["kernel"] + p["bias"], atol=1e-5)
    variables = noisy(mlp, x)
    q = float64(variables["params"])
    hidden = np.tanh(x @ q["linear_1"]["kernel"] + q["linear_1"]["bias"])
    expected = hidden @ q["linear_2"]["kernel"] + q["linear_2"]["bias"]
    np.testing.assert_allclose(mlp.apply(variables, x), expected, atol=1e-5)
    require_finite_gradients(mlp, variables, x)


@pytest.mark.parametrize("strategy", ["default", "full"])
def test_the_vision_projector_selects_then_projects(strategy):
    module = VisionProjector(LinearProjector(7), (1, -1), strategy)
    variables = noisy(module, STATES)
    selected = select_features(STATES, (1, -1), strategy)
    expected = module.apply(variables, selected, method="project")
    np.testing.assert_array_equal(module.apply(variables, STATES), expected)
    assert expected.shape == (2, 4 if strategy == "default" else 5, 7)


def test_features_replace_the_image_tokens_in_order():
    embeddings, features = normal(0, 3, 6, 2), normal(1, 3, 3, 2)
    places = np.array([[0, 1, 1, 1, 0, 0], [1, 0, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1]], bool)
    expected = embeddings.copy()
    for b in range(3):
        for n, t in enumerate(np.flatnonzero(places[b])):
            expected[b, t] = features[b, n]
    np.testing.assert_array_equal(jax.jit(replace_tokens)(embeddings, features, places), expected)
    module = ReplaceTokens(LinearProjector(2))
    variables = noisy(module, embeddings, features, places)
    tokens = LinearProjector(2).apply({"params": variables["params"]["source"]}, features)
    np.testing.assert_array_equal(
        module.apply(variables, embeddings, features, places),
        replace_tokens(embeddings, tokens, places),
    )


def test_more_places_than_features_are_not_filled_silently():
    places = np.ones((1, 3), bool)
    out = replace_tokens(normal(0, 1, 3, 2), normal(1, 1, 2, 2), places)
    np.testing.assert_array_equal(np.isnan(out[0, :, 0]), [False, False, True])


def test_gradients_reach_features_and_the_text_around_them():
    embeddings, features = normal(0, 1, 4, 2), normal(1, 1, 2, 2)
    places = np.array([[True, False, True, False]])
    text, seen = jax.grad(lambda *x: replace_tokens(*x, places).sum(), (0, 1))(embeddings, features)
    np.testing.assert_array_equal(text[0, :, 0], [0, 1, 0, 1])
    np.testing.assert_array_equal(seen, np.ones_like(seen))


def public():
    with np.load(Path(__file__).parent / "golden" / "spatial_tokens" / "expected.npz") as file:
        return dict(file)


def spatial_params(a, detail):
    p = {n.removeprefix("param."): x for n, x in a.items() if n.startswith("param.")}
    params = {}
    for number in range(6):
        kernel = p[f"conv_{number}"]  # (out, in, height, width)
        params[f"conv_{number}"] = {"kernel": kernel.transpose(2, 3, 1, 0).reshape(-1, len(kernel))}
    if not detail:
        return params | {"out": {"kernel": p["flat.1.weight"].T, "bias": p["flat.1.bias"]}}
    params["out"] = {"kernel": p["out.1.weight"].T, "bias": p["out.1.bias"]}
    params["detail"] = {"conv": {"kernel": p["conv_cm"].transpose(2, 3, 1, 0)}}
    for name in ("query", "key", "value"):
        norm = {"scale": p[f"{name}.0.weight"], "bias": p[f"{name}.0.bias"]}
        dense = {"kernel": p[f"{name}.1.weight"].T, "bias": p[f"{name}.1.bias"]}
        params["detail"] |= {f"{name}_norm": norm, name: dense}
    return params


@pytest.mark.parametrize("kind", ["crops", "pools"])
@pytest.mark.parametrize("detail", [True, False])
def test_spatial_tokens_equal_the_public_ones(kind, detail):
    """Computed with torch's convolutions and pooling on a grid of 12 x 12."""
    a = public()
    views = central_crops if kind == "crops" else pooled_grids
    integrator = DetailIntegrator(8) if detail else NoDetail()
    module = SpatialTokens(7, views, integrator, channels=5)
    found = jax.jit(module.apply)({"params": spatial_params(a, detail)}, a["grid"])
    expected = a[f"{kind}_{'detail' if detail else 'plain'}"]
    assert expected.shape == (2, 6, 7)
    np.testing.assert_allclose(found, expected, atol=5e-5)


def test_pooling_of_odd_sizes_is_that_of_torch():
    a = public()
    found = pooled_grids(jnp.asarray(a["odd"]), 2)[0]
    np.testing.assert_allclose(found, a["odd_pool"], atol=1e-6)


@pytest.mark.parametrize("views", [central_crops, pooled_grids])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (4, 9)])
def test_views_grow_to_the_whole_grid(views, size):
    grid = jnp.asarray(normal(0, 2, *size, 3))
    found = views(grid, 6)
    areas = [view.shape[1] * view.shape[2] for view in found]
    assert areas == sorted(areas)
    np.testing.assert_allclose(found[-1], grid, atol=1e-6)
    mirrored = views(grid[:, ::-1], 6)
    if views is pooled_grids:
        for one, other in zip(found, mirrored, strict=True):
            np.testing.assert_allclose(one[:, ::-1], other, atol=1e-6)


def test_a_token_sees_its_crop_alone():
    module = SpatialTokens(3, central_crops, NoDetail(), channels=4)
    grid = normal(0, 1, 12, 12, 2)
    variables = noisy(module, grid)
    jacobian = jax.jit(jax.jacrev(lambda g: module.apply(variables, g)[0].sum(-1)))(grid)
    seen = np.abs(np.asarray(jacobian)[:, 0]).sum(-1) > 0
    for number, size in enumerate((2, 4, 6, 8, 10, 12)):
        inside = np.abs(np.arange(12) - 5.5) < size / 2
        np.testing.assert_array_equal(seen[number], inside[:, None] & inside[None])


def test_spatial_tokens_stand_before_the_patches():
    spatial = SpatialTokens(3, pooled_grids, DetailIntegrator(3), channels=4)
    module, grid = SpatialProjector(spatial, LinearProjector(3)), normal(0, 2, 5, 7, 2)
    variables = noisy(module, grid)

    @jax.jit
    def both(params):
        out = module.apply({"params": params}, grid)
        return out, spatial.apply({"params": params["spatial"]}, grid)

    out, own = both(variables["params"])
    assert out.shape == (2, 6 + 35, 3)
    np.testing.assert_allclose(out[:, :6], own, atol=1e-6)
    require_finite_gradients(module, variables, grid)


def test_a_kernel_larger_than_the_grid_is_refused():
    module = SpatialTokens(3, central_crops, DetailIntegrator(8), channels=4)
    with pytest.raises(ValueError, match=r"a kernel of 8 on a grid of \(5, 7\)"):
        jax.eval_shape(module.init, jax.random.key(0), normal(0, 1, 5, 7, 2))
