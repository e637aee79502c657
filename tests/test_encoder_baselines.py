"""Baselines of the brain encoder, against scikit-learn and plain NumPy."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from neuralood.base.store import open_store
from neuralood.base.writing import write_store
from neuralood.encoder.baselines.banded import banded_predictions, layer_scales
from neuralood.encoder.baselines.components import layer_kernels, principal_components
from neuralood.encoder.baselines.every import baseline_predictions
from neuralood.encoder.baselines.factorised import FactorisedReadout, factorised_predictions
from neuralood.encoder.baselines.ridge import ALPHAS, pooled_features, ridge_predictions
from neuralood.encoder.scores import pearson_columns

IMAGES, LAYERS, PATCHES, WIDTH, LATENTS, VERTICES = 60, 2, 5, 3, 4, 7
CPU = torch.device("cpu")


def store_of(folder, **arrays):
    """A token store whose chunks are of 16 images."""
    write_store(Path(folder, "nsd.zarr"), arrays, {}, chunk=16)
    return open_store(Path(folder, "nsd.zarr"))


@pytest.fixture
def latent(rng):
    return rng.standard_normal((IMAGES, LATENTS))


@pytest.fixture
def patches(rng, latent):
    """I L N D float32: a few latents, a little noise, features of unlike scale."""
    size = LAYERS * PATCHES * WIDTH
    mixed = latent @ rng.standard_normal((LATENTS, size)) + 0.1 * rng.standard_normal((IMAGES, size))
    mixed = mixed * rng.uniform(0.1, 10, size) + 5
    return mixed.reshape(IMAGES, LAYERS, PATCHES, WIDTH).astype(np.float32)


@pytest.fixture
def tokens(tmp_path, patches):
    return store_of(tmp_path, patches=patches)


@pytest.fixture
def fmri(rng, latent):
    weights = rng.standard_normal((LATENTS, VERTICES)) * [3, 2, 1, 1, 0.3, 0.1, 0]
    return (latent @ weights + rng.standard_normal((IMAGES, VERTICES)) + 2).astype(np.float32)


@pytest.fixture
def rows(rng):
    """Train, ascending, and the images that are predicted, in any order."""
    order = rng.permutation(IMAGES)
    return np.sort(order[:40]), order[40:]


def flattened(patches, layer=slice(None)):
    return patches[:, layer].reshape(IMAGES, -1).astype(np.float64)


def scores_of_pca(features, train, components):
    reduce = make_pipeline(StandardScaler(), PCA(components, svd_solver="full")).fit(features[train])
    return reduce.transform(features)


@pytest.mark.parametrize("positions", [1, 2, 5, 50])
@pytest.mark.parametrize("components", [1, 3, 9])
def test_components_are_scikit_learns(tokens, patches, rows, positions, components):
    train = rows[0]
    for layer, kernel in enumerate(layer_kernels(tokens, train, positions)):
        found = principal_components(kernel, train, components)
        expected = scores_of_pca(flattened(patches, layer), train, components)
        signs = np.sign((found * expected).sum(axis=0))
        np.testing.assert_allclose(found * signs, expected, atol=2e-5)
    assert layer == LAYERS - 1


def test_kernels_of_layers_add_up_to_that_of_all_tokens(tokens, patches, rows):
    train = rows[0]
    found = principal_components(sum(layer_kernels(tokens, train, 2)), train, 6)
    expected = scores_of_pca(flattened(patches), train, 6)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=5e-5)


def test_int8_tokens_are_scaled(tmp_path, rng, rows):
    values = rng.integers(-127, 128, (IMAGES, LAYERS, PATCHES, WIDTH)).astype(np.int8)
    scale = rng.uniform(0.5, 2, (IMAGES, LAYERS, PATCHES)).astype(np.float32)
    (tmp_path / "float").mkdir()
    plain = store_of(tmp_path / "float", patches=values * scale[..., None])
    coded = store_of(tmp_path, patches=values, patches_scale=scale)
    for one, other in zip(layer_kernels(coded, rows[0], 2), layer_kernels(plain, rows[0], 2), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_no_more_components_than_vary(tmp_path, patches, rows):
    patches[:, :, 1:] = 3.25  # one position varies: WIDTH directions of the layer
    kernel = next(iter(layer_kernels(store_of(tmp_path, patches=patches), rows[0], 2)))
    found = principal_components(kernel, rows[0], 800)
    assert found.shape == (IMAGES, WIDTH)
    assert np.isfinite(found).all()


def test_tokens_are_never_in_memory_whole(tmp_path, rng):
    images, positions, width = 200, 64, 32
    tokens = store_of(tmp_path, patches=rng.standard_normal((images, 1, positions, width)).astype(np.float16))
    train = np.arange(100)
    list(layer_kernels(tokens, train, 64))  # what is loaded once
    tracemalloc.start()
    list(layer_kernels(tokens, train, 4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    block, kernel = 8 * images * 4 * width, 8 * images * len(train)
    assert peak < 2 * block + 3 * kernel
    assert peak < 8 * images * positions * width / 3


@pytest.mark.parametrize("components", [800, 4])
def test_ridge_is_scikit_learns(tokens, patches, fmri, rows, components):
    """PCA, then for each vertex a grid search over the penalty by 5-fold cross-validation."""
    train, wanted = rows
    features = principal_components(sum(layer_kernels(tokens, train, 2)), train, components)
    found = ridge_predictions(features, train, fmri[train], wanted, 5000)

    reduced = scores_of_pca(flattened(patches), train, min(components, LAYERS * PATCHES * WIDTH))
    chosen = set()
    for vertex in range(VERTICES):
        search = GridSearchCV(Ridge(), {"alpha": ALPHAS}, cv=5, scoring="neg_mean_squared_error")
        search.fit(reduced[train], fmri[train, vertex])
        chosen.add(search.best_params_["alpha"])
        np.testing.assert_allclose(found.fmri[:, vertex], search.predict(reduced[wanted]), rtol=1e-3, atol=1e-3)
        assert found.loss[vertex] == pytest.approx(-search.best_score_, rel=1e-3)
    assert len(chosen) > 2  # the penalty is a choice of each vertex


def test_ridge_does_not_change_by_the_vertices_solved_at_a_time(fmri, latent, rows):
    train, wanted = rows
    features = latent.astype(np.float32)
    whole = ridge_predictions(features, train, fmri[train], wanted, 5000)
    np.testing.assert_allclose(ridge_predictions(features, train, fmri[train], wanted, 2).fmri, whole.fmri, rtol=1e-4)


def test_pooled_features_are_standardised_means_layers_side_by_side(tokens, patches, rows):
    pooled = np.hstack([patches[:, layer].mean(axis=1) for layer in range(LAYERS)])
    expected = StandardScaler().fit(pooled[rows[0]]).transform(pooled)
    np.testing.assert_allclose(pooled_features(tokens, rows[0]), expected, atol=1e-4)


def test_scales_start_equal_and_share_out_one_penalty(rng):
    scales = layer_scales(3, 50, rng)
    np.testing.assert_allclose(scales[0], 1)
    np.testing.assert_allclose(scales.sum(axis=1), 3)
    assert len(np.unique(scales[1:], axis=0)) == 49
    assert (scales >= 0).all()
    assert layer_scales(3, 1, rng).shape == (1, 3)


def test_banded_ridge_is_a_search_over_scaled_layers(tokens, patches, fmri, rows, rng):
    """For each vertex: scikit-learn's ridge on scaled layers side by side, the scales by the same cross-validation."""
    train, wanted = rows
    fmri[:, 1] += patches[:, 1, 0, 0]  # of the second layer alone
    found = banded_predictions(
        list(layer_kernels(tokens, train, 2)),
        train,
        fmri[train],
        wanted,
        components=800,
        samples=6,
        vertices=3,
        rng=np.random.default_rng(3),
    )
    chosen = []
    standard = [StandardScaler().fit(x[train]).transform(x) for x in (flattened(patches, n) for n in range(LAYERS))]
    for vertex in range(VERTICES):
        searches = []
        for scales in layer_scales(LAYERS, 6, np.random.default_rng(3)):
            features = np.hstack([layer * scale**0.5 for layer, scale in zip(standard, scales, strict=True)])
            search = GridSearchCV(Ridge(), {"alpha": ALPHAS}, cv=5, scoring="neg_mean_squared_error")
            search.fit(features[train], fmri[train, vertex])
            searches.append((search.best_score_, search.predict(features[wanted])))
        best = int(np.argmax([score for score, _ in searches]))
        chosen.append(best)
        np.testing.assert_allclose(found.fmri[:, vertex], searches[best][1], rtol=2e-3, atol=2e-3)
        assert found.loss[vertex] == pytest.approx(-searches[best][0], rel=1e-3)
    assert len(set(chosen)) > 1


def factorised(rng, batch, vertices=5):
    mean, sd = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([2.0, 0.5, 0.0])
    model = FactorisedReadout(mean, sd, PATCHES, vertices, batch)
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.from_numpy(rng.standard_normal(value.shape)))
    return model


def test_a_factorised_readout_is_a_mask_times_features(rng):
    model = factorised(rng, 100)
    x = rng.standard_normal((4, PATCHES, WIDTH)).astype(np.float32)
    x[:, :, 2] = 0.0
    mask, feature, bias = (value.detach().numpy() for value in model.parameters())
    scaled = (x - [1.0, -2.0, 0.0]) / [2.0, 0.5, 1.0]
    expected = np.einsum("nv,dv,bnd->bv", mask, feature, scaled) / np.sqrt(PATCHES) + bias
    np.testing.assert_allclose(model(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_vertices_in_batches_have_the_same_predictions_and_gradients(rng):
    whole, parts = (factorised(np.random.default_rng(1), batch) for batch in (5, 2))
    x = torch.from_numpy(rng.standard_normal((4, PATCHES, WIDTH)).astype(np.float32))
    for model in (whole, parts):
        (model(x) ** 2).sum().backward()
    np.testing.assert_allclose(parts(x).detach(), whole(x).detach(), rtol=1e-5)
    for one, other in zip(parts.parameters(), whole.parameters(), strict=True):
        np.testing.assert_allclose(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_a_factorised_readout_learns_where_and_what(tmp_path, rng, project):
    """A vertex that sees one feature at one position: the mean patch cannot tell it."""
    x = rng.standard_normal((400, 1, PATCHES, WIDTH)).astype(np.float32)
    fmri = np.column_stack([x[:, 0, 3, 1], -x[:, 0, 0, 2]]).astype(np.float32)
    train, validation, wanted = np.arange(300), np.arange(300, 340), np.arange(340, 400)
    truth = fmri[wanted]
    fmri[wanted] = np.nan  # never looked at
    tokens, params = store_of(tmp_path, patches=x), project.load().encoder
    settings = replace(params, batch_size=20, factorised=replace(params.factorised, epochs=30, lr=0.05))
    found = factorised_predictions(
        tokens, (train, validation), fmri, wanted, settings=settings, vertices=1, seed=0, device=CPU
    )
    assert (pearson_columns(found, truth) > 0.95).all()
    pooled = ridge_predictions(pooled_features(tokens, train), train, fmri[train], wanted, 10).fmri
    assert (pearson_columns(pooled, truth) < 0.8).all()


@pytest.mark.parametrize("layers", [1, 2])
def test_every_baseline_is_fitted_without_the_images_it_is_scored_on(tmp_path, patches, fmri, rows, project, layers):
    train, validation, test = rows[0], rows[1][:10], rows[1][10:]
    tokens = store_of(tmp_path, patches=patches[:, :layers])
    project.edit(**{"encoder.ridge_components": 8, "encoder.factorised.epochs": 2, "encoder.batch_size": 8})
    wanted = np.concatenate([validation, test])

    def predictions():
        return baseline_predictions(project.load(), tokens, fmri, (train, validation), wanted, CPU)

    first = predictions()
    assert set(first) == {"ridge", "ridge_gap", "factorised"} | ({"banded_ridge"} if layers > 1 else set())
    assert all(values.shape == (20, VERTICES) and values.dtype == np.float32 for values in first.values())
    fmri[test] = np.nan
    for name, values in predictions().items():
        np.testing.assert_array_equal(values, first[name])
    fmri[validation] += 100
    again = predictions()
    for name in set(again) - {"factorised"}:
        np.testing.assert_array_equal(again[name], first[name])
