"""The brain encoder against a plainly written reference, and what a vertex may and may not depend on."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from conftest import randomise
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmarks.dense_encoder import DenseEncoder, as_roi_encoder, plain_sine_positions
from neuralood.base import attention as attending
from neuralood.base.attention import CrossAttention, dropped
from neuralood.encoder.model import RoiEncoder, RoiReadout, query_membership, sine_positions

GRID, PATCHES, TOKEN_WIDTH, WIDTH, HEADS, VERTICES, LH_VERTICES = (2, 3), 6, 4, 8, 2, 9, 5

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
    sizes = {"grid": GRID, "token_width": TOKEN_WIDTH, "width": WIDTH, "heads": HEADS, "dropout": 0.0}
    model = RoiEncoder(
        membership, depth=depth, **{**sizes, "positions": "learned", "start": "queries", **changes}
    ).eval()
    kept = model.membership.clone()
    randomise(model)
    assert torch.equal(model.membership, kept)
    return model


@pytest.fixture
def patches(rng):
    return torch.from_numpy(rng.standard_normal((3, PATCHES, TOKEN_WIDTH))).float()


# The reference: NumPy, one image, one query, one head, one vertex at a time, in double precision.


def linear(values, weights, name):
    return values @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)


def norm(values, weights, name):
    centred = values - values.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(values):
    return np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))(values)


def attend(queries, keys, values, weights, name, heads):
    """Queries Q W, keys and values N D -> output Q W, attention Q N (mean over heads)."""
    width = queries.shape[1]
    asked, keys, values = (
        linear(part, weights, f"{name}.to_{what}")
        for part, what in ((queries, "query"), (keys, "key"), (values, "value"))
    )
    merged, looks = np.zeros_like(queries), np.zeros((len(queries), len(keys)))
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
    queries, fmri, looks = weights["queries"], [], []
    for image in patches.double().numpy():
        tokens = (image - weights["token_mean"]) / weights["token_sd"]
        zeros = np.zeros_like(queries)
        targets, added = (zeros, queries) if model.sizes["start"] == "zeros" else (queries, zeros)
        for layer in range(depth):
            name = f"layers.{layer}"
            if layer > 0:
                normed = norm(targets, weights, f"{name}.self_norm")
                asked = normed + added
                targets = targets + attend(asked, asked, normed, weights, f"{name}.self_attention", heads)[0]
            asked = norm(targets, weights, f"{name}.cross_norm") + added
            keys = tokens + weights["position"]
            attended, where = attend(asked, keys, tokens, weights, f"{name}.cross_attention", heads)
            targets = targets + attended
            hidden = gelu(linear(norm(targets, weights, f"{name}.feed_forward.0"), weights, f"{name}.feed_forward.1"))
            targets = targets + linear(hidden, weights, f"{name}.feed_forward.3")
        targets = norm(targets, weights, "norm")
        predicted = weights["readout.bias"].copy()
        row = 0
        for query, members in enumerate(membership):
            for vertex in np.flatnonzero(members):
                predicted[vertex] += weights["readout.weight"][row] @ targets[query]
                row += 1
        fmri.append(predicted)
        looks.append(where)
    return np.stack(fmri), np.stack(looks)


@pytest.mark.parametrize("start", ["queries", "zeros"])
@pytest.mark.parametrize("positions", ["learned", "sine"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_forward_is_the_equations(patches, depth, positions, start):
    model = make_encoder(depth, positions=positions, start=start)
    expected, _ = reference(model, patches)
    np.testing.assert_allclose(model(patches).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 3])
def test_attention_is_the_equations_and_sums_to_1(patches, depth):
    model = make_encoder(depth)
    found = model.attention(patches).detach()
    np.testing.assert_allclose(found.numpy(), reference(model, patches)[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.sum(-1), torch.ones(3, len(MEMBERSHIP)))


def test_inputs_are_standardised_by_the_statistics_given(patches):
    model = make_encoder()
    mean, sd = torch.arange(4.0), torch.arange(4.0) / 2  # the first sd is 0
    model.standardise_by(mean, sd)
    assert model.token_sd[0] == pytest.approx(1e-6)
    scaled = (patches[..., 1:] - mean[1:]) / sd[1:]
    shifted = torch.cat([torch.zeros(3, PATCHES, 1), scaled], dim=-1)
    plain = make_encoder()
    plain.standardise_by(torch.zeros(4), torch.ones(4))
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


def test_gradients_of_the_readout_are_numerical_ones(rng):
    """A query without vertices gets none."""
    membership = torch.cat([MEMBERSHIP, torch.zeros(1, VERTICES, dtype=torch.bool)])
    readout = randomise(RoiReadout(membership, 3).double())
    tokens = torch.from_numpy(rng.standard_normal((2, len(membership), 3))).requires_grad_()
    names, weights = zip(*readout.named_parameters(), strict=True)

    def read(tokens, *weights):
        return torch.func.functional_call(readout, dict(zip(names, weights, strict=True)), tokens)

    assert torch.autograd.gradcheck(read, (tokens, *weights))
    readout(tokens).sum().backward()
    assert torch.equal(tokens.grad.abs().sum((0, 2)) > 0, membership.any(1))


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


@pytest.mark.parametrize("positions", ["learned", "sine"])
def test_full_size_shapes(positions):
    """DINOv2 at 434 px, 39,548 vertices, 48 ROIs and two rest queries; nothing is allocated."""
    vertices = torch.arange(39_548)
    hemi = (vertices >= 19_004).int()
    roi = (vertices % 50)[None] == torch.arange(2, 50)[:, None]
    membership = query_membership(roi, hemi)
    with torch.device("meta"):
        sizes = {"grid": (31, 31), "token_width": 768, "width": 768, "depth": 2, "heads": 16, "dropout": 0.1}
        model = RoiEncoder(membership, **sizes, positions=positions, start="zeros")
    model = model.to("meta")
    assert model(torch.empty(4, 961, 768, device="meta")).shape == (4, 39_548)
    assert model.roi_tokens(torch.empty(4, 961, 768, device="meta")).shape == (4, 50, 768)
    assert model.attention(torch.empty(4, 961, 768, device="meta")).shape == (4, 50, 961)
    assert len(model.readout.weight) == 39_548


# The reference's encoder


def make_reference(depth, positions, membership=MEMBERSHIP):
    sizes = {"lh_vertices": LH_VERTICES, "grid": GRID, "width": WIDTH, "heads": HEADS, "dropout": 0.0}
    return randomise(DenseEncoder(membership, depth=depth, positions=positions, **sizes)).eval()


@pytest.mark.parametrize("membership", [MEMBERSHIP, MEMBERSHIP[[2, 0, 5, 1, 4, 3]]], ids=["sides apart", "mixed"])
@pytest.mark.parametrize("positions", ["learned", "sine"])
@pytest.mark.parametrize("depth", [1, 2])
def test_outputs_are_the_dense_references(rng, depth, positions, membership):
    """Overlapping ROIs and rest queries; the reference's biases of keys are not 0."""
    model = make_reference(depth, positions, membership)
    tokens = torch.from_numpy(rng.standard_normal((3, PATCHES, WIDTH))).float()
    ours = as_roi_encoder(model).eval()
    torch.testing.assert_close(ours(tokens), model(tokens), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.roi_tokens(tokens), model.roi_tokens(tokens), rtol=0, atol=1e-5)
    assert model(tokens).std() > 0.1


def test_sine_positions_are_the_plain_formula():
    for grid, width in (((2, 3), 4), ((3, 2), 8), ((31, 31), 16)):
        torch.testing.assert_close(sine_positions(grid, width), plain_sine_positions(*grid, width))


def test_sine_positions_tell_all_patches_apart():
    positions = sine_positions((5, 7), 12)
    assert positions.shape == (35, 12)
    assert torch.cdist(positions, positions).fill_diagonal_(1).min() > 1e-3


def test_sine_positions_want_a_width_that_4_divides():
    with pytest.raises(ValueError, match="4 divides, got 10"):
        sine_positions((2, 2), 10)


@pytest.mark.parametrize(("positions", "trained"), [("learned", True), ("sine", False)])
def test_only_learned_positions_are_trained(positions, trained):
    assert ("position" in dict(make_encoder(positions=positions).named_parameters())) == trained
    assert "position" in make_encoder(positions=positions).state_dict()


def test_self_attention_of_targets_that_are_all_0_is_one_constant(rng):
    """Why our first layer has none: c = W_o (W_v b + b_v) + b_o, where b is the bias of the norm before it."""
    layer = make_reference(1, "learned").layers[0]
    normed = layer.self_norm(torch.zeros(1, 4, WIDTH))
    torch.testing.assert_close(normed, layer.self_norm.bias.expand(1, 4, WIDTH))
    asked = normed + torch.from_numpy(rng.standard_normal((1, 4, WIDTH))).float()
    mixed, _ = layer.self_attention(asked, asked, normed)
    attention, width = layer.self_attention, WIDTH
    value = attention.in_proj_weight[2 * width :] @ layer.self_norm.bias + attention.in_proj_bias[2 * width :]
    torch.testing.assert_close(mixed, attention.out_proj(value).expand(1, 4, WIDTH))


# Attention


CONTEXT_WIDTH = 6


def drawn(rng, *shape, dtype=torch.float32):
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def as_torchs(attention, key_bias):
    """torch's attention with the same weights, and a bias of the keys."""
    context_width = attention.to_key.weight.shape[1]
    torchs = nn.MultiheadAttention(WIDTH, attention.heads, kdim=context_width, vdim=context_width, batch_first=True)
    with torch.no_grad():
        if context_width == WIDTH:
            weights = [attention.to_query.weight, attention.to_key.weight, attention.to_value.weight]
            torchs.in_proj_weight.copy_(torch.cat(weights))
        else:
            torchs.q_proj_weight.copy_(attention.to_query.weight)
            torchs.k_proj_weight.copy_(attention.to_key.weight)
            torchs.v_proj_weight.copy_(attention.to_value.weight)
        torchs.in_proj_bias.copy_(torch.cat([attention.to_query.bias, key_bias, attention.to_value.bias]))
        torchs.out_proj.load_state_dict(attention.to_output.state_dict())
    return torchs.eval()


@pytest.mark.parametrize("placed", [False, True], ids=["without position", "with position"])
@pytest.mark.parametrize("context_width", [WIDTH, CONTEXT_WIDTH])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_cross_attention_is_torchs_whatever_its_bias_of_keys(rng, heads, context_width, placed):
    attention = randomise(CrossAttention(WIDTH, heads, 0.0, context_width)).eval()
    queries, context = drawn(rng, 3, 4, WIDTH), drawn(rng, 3, 7, context_width)
    position = drawn(rng, 7, context_width) if placed else None
    keys = context if position is None else context + position
    for key_bias in (torch.zeros(WIDTH), 5 * drawn(rng, WIDTH)):
        output, weights = as_torchs(attention, key_bias)(queries, keys, context)
        torch.testing.assert_close(attention(queries, context, position), output)
        torch.testing.assert_close(attention.weights(queries, context, position), weights)


def test_context_is_as_wide_as_the_queries_where_its_width_is_left_out():
    assert CrossAttention(WIDTH, 2, 0.0).to_key.weight.shape == (WIDTH, WIDTH)


@pytest.mark.parametrize("placed", [False, True], ids=["without position", "with position"])
def test_queries_given_once_serve_all_images(rng, placed):
    attention = randomise(CrossAttention(WIDTH, 2, 0.0, CONTEXT_WIDTH)).eval()
    queries, context = drawn(rng, 1, 4, WIDTH), drawn(rng, 3, 7, CONTEXT_WIDTH)
    position = drawn(rng, 7, CONTEXT_WIDTH) if placed else None
    for found in (attention, attention.weights):
        torch.testing.assert_close(
            found(queries, context, position), found(queries.expand(3, 4, WIDTH), context, position)
        )


def unfolded(attention, queries, context, position):
    """As Vaswani et al. (2017) write it: keys and values are made of the tokens."""

    def by_head(values):
        return values.unflatten(-1, (attention.heads, -1)).transpose(-3, -2)

    asked = by_head(attention.to_query(queries))
    keys, values = by_head(attention.to_key(context + position)), by_head(attention.to_value(context))
    shares = torch.softmax(asked @ keys.transpose(-2, -1) / asked.shape[-1] ** 0.5, dim=-1)
    return attention.to_output((shares @ values).transpose(-3, -2).flatten(-2))


@pytest.mark.parametrize("images", [1, 3], ids=["queries given once", "queries of each image"])
def test_folded_is_unfolded_in_value_and_gradients(rng, images):
    folded = randomise(CrossAttention(WIDTH, 2, 0.0, CONTEXT_WIDTH).double())
    plain = deepcopy(folded)
    inputs = [
        drawn(rng, *shape, dtype=torch.float64)
        for shape in ((images, 4, WIDTH), (3, 7, CONTEXT_WIDTH), (7, CONTEXT_WIDTH))
    ]
    found, expected = ([value.clone().requires_grad_() for value in inputs] for _ in range(2))
    outputs = folded(*found), unfolded(plain, *expected)
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    upstream = drawn(rng, *outputs[0].shape, dtype=torch.float64)
    for output in outputs:
        (output * upstream).sum().backward()
    for ours, theirs in zip([*found, *folded.parameters()], [*expected, *plain.parameters()], strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-12)
        assert theirs.grad.abs().max() > 1e-3


def test_attention_weights_used_by_hand_give_the_output(rng):
    attention = randomise(CrossAttention(WIDTH, 1, 0.0)).eval()
    queries, context = (drawn(rng, 3, length, WIDTH) for length in (4, 7))
    weights = attention.weights(queries, context)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4))
    torch.testing.assert_close(attention(queries, context), attention.to_output(weights @ attention.to_value(context)))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_wanted_share_is_dropped_anew_each_time(share):
    torch.manual_seed(0)
    draws = torch.stack([dropped(torch.ones(101, 97), share)[0] == 0 for _ in range(40)]).double()
    error = (share * (1 - share) / draws.numel()) ** 0.5
    assert float(draws.mean()) == pytest.approx(share, abs=4 * error)
    for lane in range(4):  # of the 64 bits drawn at a time
        assert float(draws.flatten(1)[:, lane::4].mean()) == pytest.approx(share, abs=8 * error)
    neighbours = np.corrcoef(draws.flatten()[:-1], draws.flatten()[1:])[0, 1]
    repeated = np.corrcoef(draws[0].flatten(), draws[1].flatten())[0, 1]
    assert abs(neighbours) < 0.01
    assert abs(repeated) < 0.05


def test_sums_of_what_is_left_are_unbiased_and_gradients_flow_to_that_alone():
    torch.manual_seed(0)
    values = torch.rand(200, 300, requires_grad=True)
    left, scale = dropped(values, 0.3)
    assert scale == pytest.approx(1 / 0.7, abs=1e-4)
    assert scale * left.detach().sum().item() == pytest.approx(values.detach().sum().item(), rel=0.01)
    assert torch.equal(left[left != 0], values[left != 0])
    left.sum().backward()
    assert torch.equal(values.grad, (left != 0).float())


def test_nothing_is_dropped_of_a_share_of_0():
    values = torch.rand(5, 3)
    left, scale = dropped(values, 0.0)
    assert torch.equal(left, values)
    assert scale == 1.0


def test_equal_seeds_drop_the_same():
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(dropped(torch.ones(33, 7), 0.5)[0])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_attention_drops_shares_and_scales_what_it_reads(rng, monkeypatch):
    attention = randomise(CrossAttention(WIDTH, 2, 0.4)).train()
    queries, context = (drawn(rng, 3, length, WIDTH) for length in (4, 7))
    asked = []
    monkeypatch.setattr(attending, "dropped", lambda shares, share: asked.append(share) or (shares, 2.0))
    nothing = attention.to_output(attention.to_value.bias)
    twice = attention(queries, context) - nothing
    monkeypatch.setattr(attending, "dropped", lambda shares, share: asked.append(share) or (shares, 1.0))
    torch.testing.assert_close(twice, 2 * (attention.eval()(queries, context) - nothing))
    assert asked == [0.4, 0.0]


def test_dropout_acts_in_training_only(patches):
    model = make_encoder(dropout=0.5)
    torch.testing.assert_close(model(patches), model(patches))
    torch.testing.assert_close(model(patches), make_encoder(dropout=0.0)(patches))
    model.train()
    assert not torch.equal(model(patches), model(patches))
