"""The fusion classifier and its loss, against references written by hand from the definitions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, randomise
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr

from neuralood.base.moments import Scale
from neuralood.base.store import open_store
from neuralood.base.writing import write_store
from neuralood.config import load_params
from neuralood.encoder.form import Form
from neuralood.encoder.model import RoiEncoder, encoder_sizes, roi_encoder
from neuralood.fusion.loss import fusion_loss, pearson
from neuralood.fusion.model import BrainTransformer, FusionClassifier, FusionSizes, floored, vertex_order
from neuralood.fusion.probe import Probe
from neuralood.fusion.survey import open_features, survey
from neuralood.fusion.train import build_fusion, parameter_counts
from neuralood.fusion.trained import ImageData

VERTICES, PATCHES, CLASSES = 10, 5, 4  # vertices of the subject, of which fusion reads 7
ORDER = torch.tensor([3, 1, 0, 9, 8, 4, 6])
SIZES = FusionSizes(
    variant="bmfl",
    cls_width=6,
    patch_width=3,
    vertices=len(ORDER),
    classes=CLASSES,
    patch=3,
    depth=2,
    heads=2,
    width=8,
    dropout=0.0,
    token_dropout=0.0,
)
CPU = torch.device("cpu")
VARIANTS = ("bmfl", "concat", "image_only", "brain_only")


def make_encoder():
    membership = torch.zeros(2, VERTICES, dtype=torch.bool)
    membership[0, :5], membership[1, 5:] = True, True
    sizes = {"grid": (1, PATCHES), "token_width": 3, "width": 4, "depth": 1, "heads": 2, "dropout": 0.0}
    return RoiEncoder(membership, **sizes, positions="learned", start="queries")


def make_model(variant, **changes):
    encoder = make_encoder() if variant == "image_only" else None
    return randomise(FusionClassifier(replace(SIZES, variant=variant, **changes), ORDER, encoder)).eval()


@pytest.fixture
def inputs(rng):
    """[CLS], patches and fMRI of three images."""
    shapes = (3, 6), (3, PATCHES, 3), (3, VERTICES)
    return tuple(torch.from_numpy(rng.standard_normal(shape)).float() for shape in shapes)


# The reference, from the definitions in the design: plain tensors and weights by name.


def linear(values, weights, name):
    return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(values, weights, name):
    centred = values - values.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(values):
    return 0.5 * values * (1 + torch.erf(values / 2**0.5))


def heads_attend(queries, keys, values, heads):
    """One image: Q W, N W, N W -> Q W, head by head."""
    parts = []
    for query, key, value in zip(*(part.chunk(heads, -1) for part in (queries, keys, values)), strict=True):
        scores = query @ key.T / key.shape[1] ** 0.5
        shares = scores.exp() / scores.exp().sum(-1, keepdim=True)
        parts.append(shares @ value)
    return torch.cat(parts, dim=-1)


def cross(query, context, weights, name, heads):
    keys, values = context @ weights[f"{name}.to_key.weight"].T, linear(context, weights, f"{name}.to_value")
    attended = heads_attend(linear(query[None], weights, f"{name}.to_query"), keys, values, heads)
    return linear(attended, weights, f"{name}.to_output")[0]


def brain_tokens(fmri, weights, sizes):
    """Standardised fMRI of one image -> [CLS] W, patches P W: pre-normed transformer layers."""
    padded = torch.cat([fmri, fmri.new_zeros(-len(fmri) % sizes.patch)])
    kernel, bias = weights["brain.cut.weight"][:, 0], weights["brain.cut.bias"]  # W x vertices of a patch
    patches = [kernel @ part + bias for part in padded.split(sizes.patch)]
    tokens = torch.stack([weights["brain.cls"], *patches]) + weights["brain.position"]
    for depth in range(sizes.depth):
        name = f"brain.layers.layers.{depth}"
        normed = norm(tokens, weights, f"{name}.norm1")
        joint = normed @ weights[f"{name}.self_attn.in_proj_weight"].T + weights[f"{name}.self_attn.in_proj_bias"]
        attended = heads_attend(*joint.chunk(3, -1), sizes.heads)
        tokens = tokens + linear(attended, weights, f"{name}.self_attn.out_proj")
        hidden = gelu(linear(norm(tokens, weights, f"{name}.norm2"), weights, f"{name}.linear1"))
        tokens = tokens + linear(hidden, weights, f"{name}.linear2")
    tokens = norm(tokens, weights, "brain.norm")
    return tokens[0], tokens[1:]


def reference(model, cls, patches, fmri):
    """Logits, image and brain features of one image."""
    weights = {name: value.double() for name, value in model.state_dict().items()}
    sizes = model.sizes

    def scaled(values, name):
        return (values - weights[f"{name}.mean"]) / weights[f"{name}.sd"]

    brain_cls, brain_patches = brain_tokens(scaled(fmri[ORDER], "scale_fmri"), weights, sizes)
    if sizes.variant == "brain_only":
        return linear(brain_cls, weights, "classify"), brain_cls, brain_cls
    patches = scaled(patches, "scale_patches")
    image, brain = linear(scaled(cls, "scale_cls"), weights, "project_cls"), brain_cls
    if sizes.variant != "concat":
        image_patches = linear(patches, weights, "project_patches")
        f_i = cross(image, brain_patches, weights, "look_at_brain", sizes.heads) + image
        f_b = cross(brain, image_patches, weights, "look_at_image", sizes.heads) + brain
        image, brain = f_i, f_b
    image, brain = norm(image, weights, "norm_image"), norm(brain, weights, "norm_brain")
    return linear(torch.cat([image, brain, patches.mean(0)]), weights, "classify"), image, brain


@pytest.mark.parametrize("variant", ["bmfl", "concat", "brain_only"])
@pytest.mark.parametrize("depth", [1, 2])
def test_forward_is_the_references(inputs, variant, depth):
    model = make_model(variant, depth=depth)
    expected = [reference(model, *(part[row].double() for part in inputs)) for row in range(3)]
    for found, parts in zip(model(*inputs), zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(found.double(), torch.stack(parts), rtol=1e-5, atol=1e-5)


def test_image_only_is_bmfl_on_the_output_of_its_own_encoder(inputs):
    model = make_model("image_only")
    cls, patches, _ = inputs
    own = model.encoder(patches).double()
    expected = [reference(model, cls[row].double(), patches[row].double(), own[row])[0] for row in range(3)]
    torch.testing.assert_close(model(*inputs).logits.double(), torch.stack(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes(inputs, variant):
    output = make_model(variant)(*inputs)
    assert output.logits.shape == (3, CLASSES)
    assert output.image.shape == output.brain.shape == (3, 8)


@pytest.mark.parametrize(
    ("variant", "matters"),
    [
        ("bmfl", {"cls": True, "patches": True, "fmri": True}),
        ("concat", {"cls": True, "patches": True, "fmri": True}),
        ("image_only", {"cls": True, "patches": True, "fmri": False}),
        ("brain_only", {"cls": False, "patches": False, "fmri": True}),
    ],
)
def test_which_inputs_matter(inputs, variant, matters):
    model = make_model(variant)
    before = model(*inputs).logits
    for place, (name, expected) in enumerate(matters.items()):
        changed = list(inputs)
        changed[place] = changed[place].flip(0) + 1
        assert torch.equal(model(*changed).logits, before) != expected, name


@pytest.mark.parametrize("variant", ["bmfl", "concat", "brain_only"])
def test_only_the_chosen_vertices_are_read(inputs, variant):
    model, fmri = make_model(variant), inputs[2].requires_grad_()
    (gradient,) = torch.autograd.grad(model(*inputs[:2], fmri).logits.sum(), fmri)
    assert (gradient.abs().sum(0) > 0).nonzero().flatten().tolist() == sorted(ORDER.tolist())


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_is_trained(inputs, variant):
    model = make_model(variant)
    output = model(*inputs)
    loss = fusion_loss(output.logits, torch.tensor([0, 1, 2]), output.image, output.brain, 1.0)
    loss.backward()
    idle = [name for name, value in model.named_parameters() if value.grad is None]
    assert idle == ["project_patches.weight", "project_patches.bias"] * (variant == "concat")


def test_concat_has_no_cross_attention():
    assert [name for name, _ in make_model("concat").named_parameters() if "look_at" in name] == []
    assert [name for name, _ in make_model("bmfl").named_parameters() if "look_at" in name]


def test_brain_only_classifies_the_brains_cls_alone():
    names = {name.split(".")[0] for name, _ in make_model("brain_only").named_parameters()}
    assert names == {"brain", "classify"}


@given(vertices=st.integers(1, 20), patch=st.integers(1, 8))
def test_vertices_are_padded_to_a_multiple_of_the_patch(vertices, patch):
    brain = BrainTransformer(vertices, patch=patch, width=4, depth=1, heads=1, dropout=0.0)
    cls, patches = brain(torch.ones(2, vertices))
    assert cls.shape == (2, 4)
    assert patches.shape == (2, -(-vertices // patch), 4)


def test_the_padding_is_zeros_at_the_end():
    short = randomise(BrainTransformer(7, patch=3, width=4, depth=1, heads=1, dropout=0.0)).eval()
    whole = BrainTransformer(9, patch=3, width=4, depth=1, heads=1, dropout=0.0).eval()
    whole.load_state_dict(short.state_dict())
    fmri = torch.arange(14.0).reshape(2, 7)
    padded = torch.cat([fmri, torch.zeros(2, 2)], dim=1)
    for one, other in zip(short(fmri), whole(padded), strict=True):
        torch.testing.assert_close(one, other)


def test_full_size_shapes():
    """DINOv2 at 224 px, 39,548 vertices, ImageNet's classes; nothing is allocated."""
    sizes = FusionSizes("bmfl", 768, 768, 39_548, 1000, 400, 8, 8, 512, 0.1, 0.0)
    with torch.device("meta"):
        model = FusionClassifier(sizes, torch.arange(39_548))
        output = model(torch.empty(2, 768), torch.empty(2, 256, 768), torch.empty(2, 39_548))
    assert output.logits.shape == (2, 1000)
    assert model.brain.position.shape == (1 + 99, 512)


@pytest.mark.parametrize("variant", VARIANTS)
def test_full_size_models_have_as_many_parameters_as_the_paper_profile_says(variant):
    """Counted from the definitions; the encoder's own from its sizes."""
    profile = load_params(ROOT / "profiles" / "paper.yaml", check_paths=False)
    chosen, vertices, width, classes = profile.fusion, 39_548, 768, 1000
    w, patch = chosen.width, chosen.patch
    tokens = 1 + -(-vertices // patch)
    layer = 4 * w * w + 4 * w + 8 * w * w + 5 * w + 4 * w  # attention, MLP, two LayerNorms
    brain = patch * w + w + w + tokens * w + chosen.depth * layer + 2 * w
    projections, norms, attention = 2 * (width * w + w), 4 * w, 4 * w * w + 3 * w
    head = (2 * w + width) * classes + classes
    expected = {
        "bmfl": brain + projections + 2 * attention + norms + head,
        "concat": brain + projections + norms + head,
        "brain_only": brain + w * classes + classes,
    }
    expected["image_only"] = expected["bmfl"]
    membership = torch.ones(50, vertices, dtype=torch.bool, device="cpu")  # its pairs are counted
    with torch.device("meta"):
        encoder = roi_encoder(membership, **encoder_sizes(profile.encoder, (16, 16), width))
        own = encoder if variant == "image_only" else None
        sizes = FusionSizes(
            variant, width, width, vertices, classes, patch, chosen.depth, chosen.heads, w, chosen.dropout, 0.0
        )
        model = FusionClassifier(sizes, torch.arange(vertices), own)
    of_encoder = sum(value.numel() for value in encoder.parameters()) if own else 0
    assert sum(value.numel() for value in model.parameters()) - of_encoder == expected[variant]
    assert encoder.readout.weight.shape == (50 * vertices, profile.encoder.width)


# Loss


def test_pearson_is_scipys_for_each_sample(rng):
    a, b = rng.standard_normal((2, 6, 50))
    found = pearson(torch.from_numpy(a), torch.from_numpy(b))
    expected = [pearsonr(one, other).statistic for one, other in zip(a, b, strict=True)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("constant", [(True, False), (False, True), (True, True)])
def test_constant_vectors_give_a_finite_value_and_gradient(rng, constant):
    a, b = (
        (torch.full((2, 5), 3.0) if flat else torch.from_numpy(rng.standard_normal((2, 5))).float()).requires_grad_()
        for flat in constant
    )
    value = pearson(a, b)
    assert torch.equal(value, torch.zeros(2))
    value.sum().backward()
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()


def test_pearson_is_the_definitions_with_its_epsilon():
    a, b = torch.tensor([[1.0, 0.0, -1.0]]) * 1e-3, torch.tensor([[2.0, 0.0, -2.0]]) * 1e-3
    expected = 4e-6 / ((2e-6 + 1e-6) * (8e-6 + 1e-6)) ** 0.5
    assert pearson(a, b).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_loss_is_cross_entropy_plus_the_weighted_mean_of_1_minus_r(rng, weight):
    logits, image, brain = (torch.from_numpy(rng.standard_normal((4, width))) for width in (3, 7, 7))
    labels = torch.tensor([0, 2, 1, 1])
    shares = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True)
    entropy = np.mean([-np.log(row[label]) for row, label in zip(shares, labels, strict=True)])
    term = np.mean(
        [1 - pearsonr(one, other).statistic for one, other in zip(image.numpy(), brain.numpy(), strict=True)]
    )
    found = fusion_loss(logits, labels, image, brain, weight).item()
    assert found == pytest.approx(entropy + weight * term, abs=1e-5)


def test_gradient_of_the_loss(rng):
    logits, image, brain = (torch.from_numpy(rng.standard_normal((4, width))).requires_grad_() for width in (3, 5, 5))
    labels = torch.tensor([0, 2, 1, 1])
    assert torch.autograd.gradcheck(
        lambda *values: fusion_loss(values[0], labels, *values[1:], 0.7), (logits, image, brain)
    )


# Vertices


ROI = torch.tensor([[0, 0, 1, 1, 0, 0, 1, 0], [1, 0, 1, 0, 0, 1, 0, 0]], dtype=torch.bool)
HEMI = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
ALL = torch.arange(8)


def test_roi_order_is_lh_then_rh_by_first_roi_then_index():
    assert vertex_order(ROI, HEMI, ALL, "roi").tolist() == [2, 3, 0, 1, 4, 6, 5, 7]


def test_native_order_is_lh_then_rh_by_index():
    assert vertex_order(ROI, HEMI, ALL, "native").tolist() == list(range(8))
    assert vertex_order(ROI, 1 - HEMI, ALL, "native").tolist() == [5, 6, 7, 0, 1, 2, 3, 4]


@given(
    columns=st.lists(
        st.tuples(st.booleans(), st.booleans(), st.integers(0, 1), st.booleans()), min_size=1, max_size=12
    ),
    by=st.sampled_from(["roi", "native"]),
)
def test_order_is_a_sorted_permutation_of_the_chosen(columns, by):
    *roi, hemi, picked = (torch.tensor(column) for column in zip(*columns, strict=True))
    chosen = picked.nonzero().flatten()
    order = vertex_order(torch.stack(roi), hemi, chosen, by).tolist()
    rank = {"roi": lambda index: 0 if roi[0][index] else 1 if roi[1][index] else 2, "native": lambda _: 0}[by]
    assert order == sorted(chosen.tolist(), key=lambda index: (int(hemi[index]), rank(index), index))


# Building


def image_data(rng, images=12):
    """Stores of a set, in the project's folder."""
    tokens = {
        "cls": rng.standard_normal((images, 6)).astype(np.float32) * 3 + 1,
        "patches": rng.standard_normal((images, 1, PATCHES, 3)).astype(np.float16) * 2 - 1,
    }
    fmri = rng.standard_normal((images, VERTICES)).astype(np.float32) * np.arange(VERTICES, dtype=np.float32)
    write_store(Path("tokens.zarr"), tokens, {}, 4)
    write_store(Path("fmri.zarr"), {"fmri": fmri}, {}, 4)
    form = Form("vertices", VERTICES, VERTICES)
    return ImageData(open_store(Path("tokens.zarr")), open_store(Path("fmri.zarr")), form, make_encoder())


def standardise(model, data, rows):
    """Survey the images for one model that learns from `rows`."""
    member = np.zeros((1, len(data)), bool)
    member[0, rows] = True
    (scales,) = survey(data, [model], member, Path("features.zarr"))
    scales.set_on(model)


def settings(project, variant):
    project.edit(**{"fusion.variant": variant, "fusion.width": 8, "fusion.heads": 2, "fusion.patch": 3})
    return project.load().fusion


def test_image_only_has_as_many_parameters_as_bmfl_and_the_encoder(rng, project):
    probe = Probe(np.zeros(9), np.ones(9), np.zeros((CLASSES, 9)), np.zeros(CLASSES), 1.0)
    counts = {}
    for variant in ("bmfl", "image_only"):
        encoder = make_encoder()
        model = build_fusion(settings(project, variant), image_data(rng), CLASSES, ORDER, encoder, seed=1)
        counts[variant] = parameter_counts(model, probe, encoder)
        trained = sum(value.numel() for value in model.parameters())
        apart = counts[variant]["fusion"] + counts[variant]["encoder"] * (variant == "image_only")
        assert trained == apart
    assert counts["bmfl"] == counts["image_only"]
    assert counts["bmfl"]["linear"] == CLASSES * 9 + CLASSES


def test_image_only_starts_from_random_weights_not_the_trained_encoders(rng, project):
    encoder = make_encoder()
    encoder.standardise_by(torch.arange(3.0), torch.arange(1.0, 4.0))
    model = build_fusion(settings(project, "image_only"), image_data(rng), CLASSES, ORDER, encoder, seed=1)
    assert model.encoder is not encoder
    assert torch.equal(model.encoder.token_mean, encoder.token_mean)
    for name, value in encoder.named_parameters():
        if value.ndim > 1:
            assert not torch.equal(dict(model.encoder.named_parameters())[name], value), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_seed_same_weights_another_seed_others(rng, project, variant):
    data, chosen = image_data(rng), settings(project, variant)
    one, same, other = (
        build_fusion(chosen, data, CLASSES, ORDER, make_encoder(), seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["classify.weight"], other["classify.weight"])


def test_statistics_are_those_of_the_training_rows(rng, project):
    data, rows = image_data(rng), np.array([0, 2, 3, 5, 7, 8])
    model = build_fusion(settings(project, "bmfl"), data, CLASSES, ORDER, make_encoder(), seed=1)
    standardise(model, data, rows)
    flat = data.tokens["patches"][rows].astype(np.float64).reshape(-1, 3)
    fmri = data.fmri["fmri"][rows][:, ORDER.numpy()].astype(np.float64)
    for scale, values in (
        (model.scale_cls, data.tokens["cls"][rows]),
        (model.scale_patches, flat),
        (model.scale_fmri, fmri),
    ):
        np.testing.assert_allclose(scale.mean.numpy(), values.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scale.sd.numpy(), np.maximum(values.std(axis=0), 1e-3), rtol=1e-4)
    assert model.scale_fmri.sd[ORDER.tolist().index(0)] == pytest.approx(1e-3)  # a vertex that never varies


def test_image_only_takes_no_statistic_of_the_fmri(rng, project):
    data, rows = image_data(rng), np.arange(8)
    model = build_fusion(settings(project, "image_only"), data, CLASSES, ORDER, make_encoder(), seed=1)
    standardise(model, data, rows)
    with torch.no_grad():
        own = model.encoder.eval()(data.inputs(data.load(rows, CPU), CPU).patches)[:, ORDER]
    torch.testing.assert_close(model.scale_fmri.mean, own.mean(0), rtol=1e-4, atol=1e-5)


def test_survey_writes_what_the_probe_reads_of_all_images(rng, project, monkeypatch):
    monkeypatch.setattr("neuralood.fusion.trained.PREDICT_BATCH", 5)
    monkeypatch.setattr("neuralood.fusion.survey.FEATURE_ROWS", 10)  # two batches
    data = image_data(rng, images=23)
    models = [build_fusion(settings(project, "bmfl"), data, CLASSES, ORDER, make_encoder(), seed) for seed in (1, 2)]
    member = np.ones((2, 23), bool)
    member[0, :9] = member[1, 5:] = False
    scales = survey(data, models, member, Path("features.zarr"))
    cls, patches = data.tokens["cls"][:], data.tokens["patches"][:].astype(np.float32)[:, 0]
    expected = np.concatenate([cls, patches.mean(axis=1)], axis=1)
    stored = open_features(Path("features.zarr"))
    assert stored.chunk == 10
    np.testing.assert_allclose(stored[:], expected, rtol=1e-5, atol=1e-6)
    for rows, one in zip(member, scales, strict=True):
        for scale, values in (
            (one.features, expected[rows]),
            (one.patches, patches[rows].reshape(-1, 3)),
            (one.fmri, data.fmri["fmri"][:][rows][:, ORDER.numpy()]),
        ):
            np.testing.assert_allclose(scale.mean.numpy(), values.mean(axis=0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(scale.sd.numpy(), values.std(axis=0), rtol=1e-4, atol=1e-5)


def test_token_dropout_leaves_out_patches_in_training_only(inputs):
    cls, patches, fmri = inputs
    model = make_model("bmfl", token_dropout=0.4)
    torch.testing.assert_close(model(cls, patches, fmri).logits, model(*inputs).logits)
    kept = model.train()._kept(patches)
    assert kept.shape == (3, 3, 3)  # 60 % of 5
    for image, of_image in zip(patches, kept, strict=True):
        rows = {tuple(row.tolist()) for row in of_image}
        assert len(rows) == 3
        assert rows <= {tuple(row.tolist()) for row in image}
    assert not torch.equal(model._kept(patches), model._kept(patches))
    assert make_model("bmfl").train()._kept(patches) is patches


def test_a_feature_that_hardly_varied_in_training_does_not_drown_the_others():
    model = make_model("bmfl")
    cls, patches, fmri = (
        Scale(torch.zeros(width), torch.full((width,), 2.0))
        for width in (SIZES.cls_width + SIZES.patch_width, SIZES.patch_width, SIZES.vertices)
    )
    for scale in (cls, patches, fmri):
        scale.sd[0] = 1e-9
    model.standardise(cls, patches, fmri)
    assert model.scale_cls.sd[0] == model.scale_patches.sd[0] == pytest.approx(0.2)  # a tenth of the median
    assert model.scale_fmri.sd[0] == pytest.approx(1e-3)
    assert (model.scale_cls.sd[1:] == 2).all()


def test_features_that_are_all_constant_are_divided_by_something():
    assert floored(torch.zeros(3)).tolist() == pytest.approx([1e-6] * 3)
