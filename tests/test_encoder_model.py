"""The brain encoder against a plainly written reference, and what a vertex may and may not depend on."""

import math

import numpy as np
import pytest
import torch
from conftest import randomise
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from neuralood.base.attention import CrossAttention
from neuralood.encoder.model import RoiEncoder, RoiReadout, query_membership

PATCHES, TOKEN_WIDTH, WIDTH, HEADS, VERTICES = 6, 5, 8, 2, 9

ROI = torch.tensor(
    [
        [1, 1, 0, 0, 0, 0, 0, 0, 0],  # lh: vertices 0 to 4
        [0, 1, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 1, 0, 0],  # rh: vertices 5 to 8
        [0, 0, 0, 0, 0, 0, 1, 1, 0],
    ],
    dtype=torch.bool,
)
HEMI = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1])
MEMBERSHIP = query_membership(ROI, HEMI)


def make_encoder(depth=2, membership=MEMBERSHIP, **changes):
    sizes = {"patches": PATCHES, "token_width": TOKEN_WIDTH, "width": WIDTH, "heads": HEADS, "dropout": 0.0}
    model = RoiEncoder(membership, depth=depth, **{**sizes, **changes}).eval()
    kept = model.membership.clone()
    randomise(model)
    assert torch.equal(model.membership, kept)
    return model


@pytest.fixture
def patches(rng):
    return torch.from_numpy(rng.standard_normal((3, PATCHES, TOKEN_WIDTH))).float()


# The reference: NumPy, one image, one query, one head, one vertex at a time, in double precision.


def linear(values, weights, name):
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(values, weights, name):
    centred = values - values.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(values):
    return np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))(values)


def attend(queries, context, weights, name, heads):
    """Queries Q W, context N W -> output Q W, attention Q N (mean over heads)."""
    width = queries.shape[1]
    keys, values = np.split(linear(context, weights, f"{name}.to_key_value"), 2, axis=1)
    asked = linear(queries, weights, f"{name}.to_query")
    merged, looks = np.zeros_like(queries), np.zeros((len(queries), len(context)))
    for head in range(heads):
        part = slice(head * width // heads, (head + 1) * width // heads)
        for query in range(len(queries)):
            scores = keys[:, part] @ asked[query, part] / math.sqrt(width // heads)
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
            merged[query, part] = shares @ values[:, part]
            looks[query] += shares / heads
    return linear(merged, weights, f"{name}.to_output"), looks


def reference(model, patches):
    """fMRI B V and the last layer's attention B Q N."""
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    membership, depth, heads = weights["membership"].astype(bool), model.sizes["depth"], model.sizes["heads"]
    fmri, looks = [], []
    for image in patches.double().numpy():
        scaled = (image - weights["token_mean"]) / weights["token_sd"]
        context = linear(scaled, weights, "project") + weights["position"]
        tokens = weights["queries"].copy()
        for layer in range(depth):
            name = f"layers.{layer}"
            if layer > 0:
                normed = norm(tokens, weights, f"{name}.self_norm")
                tokens = tokens + attend(normed, normed, weights, f"{name}.self_attention", heads)[0]
            asked = norm(tokens, weights, f"{name}.cross_norm")
            attended, where = attend(asked, context, weights, f"{name}.cross_attention", heads)
            tokens = tokens + attended
            hidden = gelu(linear(norm(tokens, weights, f"{name}.feed_forward.0"), weights, f"{name}.feed_forward.1"))
            tokens = tokens + linear(hidden, weights, f"{name}.feed_forward.3")
        tokens = norm(tokens, weights, "norm")
        predicted = weights["readout.bias"].copy()
        row = 0
        for query, members in enumerate(membership):
            for vertex in np.flatnonzero(members):
                predicted[vertex] += weights["readout.weight"][row] @ tokens[query]
                row += 1
        fmri.append(predicted)
        looks.append(where)
    return np.stack(fmri), np.stack(looks)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_forward_is_the_references(patches, depth):
    model = make_encoder(depth)
    expected, _ = reference(model, patches)
    np.testing.assert_allclose(model(patches).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 3])
def test_attention_is_the_references_and_sums_to_1(patches, depth):
    model = make_encoder(depth)
    found = model.attention(patches).detach()
    np.testing.assert_allclose(found.numpy(), reference(model, patches)[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, len(MEMBERSHIP)))


def test_inputs_are_standardised_by_the_statistics_given(patches):
    model = make_encoder()
    mean, sd = torch.arange(5.0), torch.arange(5.0) / 2  # the first sd is 0
    model.standardise_by(mean, sd)
    assert model.token_sd[0] == pytest.approx(1e-6)
    scaled = (patches[..., 1:] - mean[1:]) / sd[1:]
    shifted = torch.cat([torch.zeros(3, PATCHES, 1), scaled], dim=-1)
    plain = make_encoder()
    plain.standardise_by(torch.zeros(5), torch.ones(5))
    inputs = torch.cat([torch.zeros(3, PATCHES, 1), patches[..., 1:]], dim=-1)
    torch.testing.assert_close(model(inputs), plain(shifted))


def test_a_vertex_reads_the_tokens_of_its_own_rois_only(patches):
    model = make_encoder()
    tokens = model.roi_tokens(patches).detach().requires_grad_()
    for vertex in range(VERTICES):
        (gradient,) = torch.autograd.grad(model.readout(tokens)[:, vertex].sum(), tokens)
        assert torch.equal(gradient.abs().sum((0, 2)) > 0, MEMBERSHIP[:, vertex])


def test_a_vertex_learns_from_its_own_readout_weights_only(patches):
    model = make_encoder()
    query, vertex = MEMBERSHIP.nonzero(as_tuple=True)
    for one in range(VERTICES):
        (gradient,) = torch.autograd.grad(model(patches)[:, one].sum(), model.readout.weight)
        assert torch.equal(gradient.abs().sum(1) > 0, vertex == one)
    assert len(query) == MEMBERSHIP.sum() == len(model.readout.weight)


def test_a_vertex_of_two_rois_gets_the_sum_and_one_bias(patches):
    model = make_encoder()
    tokens = model.roi_tokens(patches)
    pairs = {pair: row for row, pair in enumerate(map(tuple, MEMBERSHIP.nonzero().tolist()))}
    weight = model.readout.weight
    expected = tokens[:, 0] @ weight[pairs[0, 1]] + tokens[:, 1] @ weight[pairs[1, 1]] + model.readout.bias[1]
    torch.testing.assert_close(model(patches)[:, 1], expected)


def test_permuting_images_permutes_predictions(patches):
    model = make_encoder()
    torch.testing.assert_close(model(patches[[2, 0, 1]]), model(patches)[[2, 0, 1]])


@given(order=st.permutations(range(VERTICES)), seed=st.integers(0, 99))
def test_permuting_vertices_permutes_predictions(order, seed):
    membership = torch.from_numpy(np.random.default_rng(seed).random((3, VERTICES)) < 0.4)
    membership[0, ~membership.any(0)] = True
    order = torch.tensor(order)
    readout, permuted = RoiReadout(membership, 4), RoiReadout(membership[:, order], 4)
    rows = {pair: row for row, pair in enumerate(map(tuple, membership.nonzero().tolist()))}
    with torch.no_grad():
        readout.bias.copy_(torch.arange(float(VERTICES)))
        permuted.bias.copy_(readout.bias[order])
        for row, (query, vertex) in enumerate(membership[:, order].nonzero().tolist()):
            permuted.weight[row] = readout.weight[rows[query, int(order[vertex])]]
    tokens = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 3, 4))).float()
    torch.testing.assert_close(permuted(tokens), readout(tokens)[:, order])


def test_queries_are_the_rois_then_a_rest_query_a_hemisphere():
    assert torch.equal(MEMBERSHIP[:4], ROI)
    assert MEMBERSHIP[4].nonzero().flatten().tolist() == [3, 4]
    assert MEMBERSHIP[5].nonzero().flatten().tolist() == [8]


def test_no_rest_query_where_every_vertex_has_a_roi():
    assert torch.equal(
        query_membership(ROI[:, [0, 1, 2, 5, 6, 7]], HEMI[[0, 1, 2, 5, 6, 7]]), ROI[:, [0, 1, 2, 5, 6, 7]]
    )


def test_rest_query_of_one_hemisphere_only():
    queries = query_membership(ROI[:, [0, 1, 2, 3, 5, 6, 7]], HEMI[[0, 1, 2, 3, 5, 6, 7]])
    assert len(queries) == 5
    assert queries[4].nonzero().flatten().tolist() == [3]


@given(roi=st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=4), lh=st.integers(0, 7))
def test_every_vertex_has_a_query(roi, lh):
    hemi = (torch.arange(7) >= lh).int()
    queries = query_membership(torch.tensor(roi), hemi)
    assert queries.any(0).all()
    for rest in queries[len(roi) :]:
        assert len(hemi[rest].unique()) == 1
        assert not torch.tensor(roi)[:, rest].any()


def test_first_layer_mixes_no_queries():
    model = make_encoder()
    assert model.layers[0].self_attention is None
    assert model.layers[1].self_attention is not None


def test_full_size_shapes():
    """DINOv2 at 434 px, 39,548 vertices, 48 ROIs and two rest queries; nothing is allocated."""
    vertices = torch.arange(39_548)
    hemi = (vertices >= 19_004).int()
    roi = (vertices % 50)[None] == torch.arange(2, 50)[:, None]
    membership = query_membership(roi, hemi)
    with torch.device("meta"):
        model = RoiEncoder(membership, patches=961, token_width=768, width=768, depth=2, heads=8, dropout=0.1)
    model = model.to("meta")
    assert model(torch.empty(4, 961, 768, device="meta")).shape == (4, 39_548)
    assert model.roi_tokens(torch.empty(4, 961, 768, device="meta")).shape == (4, 50, 768)
    assert model.attention(torch.empty(4, 961, 768, device="meta")).shape == (4, 50, 961)
    assert len(model.readout.weight) == 39_548


def as_torchs(attention, width, heads):
    torchs = nn.MultiheadAttention(width, heads, batch_first=True).eval()
    with torch.no_grad():
        torchs.in_proj_weight.copy_(torch.cat([attention.to_query.weight, attention.to_key_value.weight]))
        torchs.in_proj_bias.copy_(torch.cat([attention.to_query.bias, attention.to_key_value.bias]))
        torchs.out_proj.weight.copy_(attention.to_output.weight)
        torchs.out_proj.bias.copy_(attention.to_output.bias)
    return torchs


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_cross_attention_is_torchs(rng, heads):
    attention = randomise(CrossAttention(WIDTH, heads, 0.0)).eval()
    queries, context = (torch.from_numpy(rng.standard_normal((3, length, WIDTH))).float() for length in (4, 7))
    output, weights = as_torchs(attention, WIDTH, heads)(queries, context, context)
    torch.testing.assert_close(attention(queries, context), output)
    torch.testing.assert_close(attention.weights(queries, context), weights)


def test_attention_weights_used_by_hand_give_the_output(rng):
    attention = randomise(CrossAttention(WIDTH, 1, 0.0)).eval()
    queries, context = (torch.from_numpy(rng.standard_normal((3, length, WIDTH))).float() for length in (4, 7))
    weights = attention.weights(queries, context)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4))
    values = attention.to_key_value(context)[..., WIDTH:]
    torch.testing.assert_close(attention(queries, context), attention.to_output(weights @ values))


def test_dropout_acts_in_training_only(patches):
    model = make_encoder(dropout=0.5)
    torch.testing.assert_close(model(patches), model(patches))
    torch.testing.assert_close(model(patches), make_encoder(dropout=0.0)(patches))
    model.train()
    assert not torch.equal(model(patches), model(patches))
