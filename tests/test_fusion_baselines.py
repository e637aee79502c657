"""Baselines in place of the fusion classifier: parity with references, choices on the holdout, and no fMRI read."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import randomise
from helpers_fusion import CLASSES, CLS_WIDTH, WIDTH, Interrupted, make_world, train_until
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.special import log_softmax
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.moments import Scale
from neuralood.base.store import Rows, open_store
from neuralood.base.training import Loss, Schedule, Sgd, fit_together
from neuralood.base.writing import write_store
from neuralood.config import BASELINES
from neuralood.data.manifest import read_manifest
from neuralood.encoder.trained import load_encoder
from neuralood.evaluation import evaluate
from neuralood.fusion import dinov2_probe, neighbours
from neuralood.fusion import train as training
from neuralood.fusion.baselines import AttentiveProbe, LinearHead, Mlp, hidden_width
from neuralood.fusion.mixup import mixed
from neuralood.fusion.model import FusionClassifier, FusionSizes
from neuralood.fusion.neighbours import NearestNeighbours, choose_neighbours, write_neighbours
from neuralood.fusion.probe import Probe, Split
from neuralood.fusion.probe_ensemble import mean_of
from neuralood.fusion.train import train_fusion
from neuralood.fusion.trained import Inputs, PooledData, load_record, load_seed, open_image_data
from neuralood.fusion.wise import class_means, interpolated, nearest_mean
from neuralood.synthesis import synthesize

CPU = torch.device("cpu")
SIZES = FusionSizes("mlp", 6, 4, 30, 3, 4, 1, 2, 8, 0.0, 0.0)
"""Two layers of width 2."""
FEATURES = CLS_WIDTH + WIDTH


@pytest.fixture
def world(project, rng, one_thread):
    """Makes a small world with predicted fMRI of train and val, and returns its params."""

    def make(variant, **changes):
        params = make_world(project, rng, **{"fusion.variant": variant, **changes})
        for name in ("train", "val"):
            synthesize(params, name)
        return params

    return make


def train_data():
    """Train as a baseline reads it, and its labels."""
    encoder, record = load_encoder()
    manifest = read_manifest("train")
    return open_image_data(manifest, encoder, record, reads_fmri=False), np.asarray(manifest.labels)


def logits_of(number, rows):
    """Of the kept model and of the probe of a seed, on images of train."""
    data, _ = train_data()
    model, probe = load_seed(number, load_record(), load_encoder()[0])
    with torch.inference_mode():
        found = [
            (model(*inputs).logits, probe.logits(inputs.probe_features().numpy()))
            for _, inputs in data.batches(rows, CPU)
        ]
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def cross_entropy(logits, labels):
    return -log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean()


# All of them


@pytest.mark.parametrize("variant", BASELINES)
def test_a_baseline_stands_in_fusions_place_and_reads_no_fmri(world, variant, monkeypatch):
    params, read, real = world(variant, **{"fusion.seeds": 2}), set(), Rows._chunk

    def noting(self, number):
        read.add(self.path.parent)
        return real(self, number)

    monkeypatch.setattr(Rows, "_chunk", noting)
    monkeypatch.setattr(dinov2_probe, "RATES", (0.001, 0.01, 0.1))
    train_fusion(params)
    evaluate(params, "val")
    assert paths.tokens("train") in read
    assert not {paths.predicted_fmri(name) for name in ("train", "val")} & read

    scores = json.loads((paths.evaluation("val") / "scores.json").read_text())
    if variant != "knn":  # to which [CLS] says nothing here
        assert scores["fusion"]["top1"] > 100 / CLASSES + 20
    record, labels = load_record(), np.asarray(read_manifest("train").labels)
    assert (record["variant"], len(record["chosen"])) == (variant, 2)
    assert record["parameters"]["encoder"] == 0
    for number in range(2):
        held = np.sort(training._draw_seed(params, labels, number).holdout)
        for name, logits in zip(("fusion", "linear"), logits_of(number, held), strict=True):
            assert record["holdout"][name][number] == pytest.approx(cross_entropy(logits, labels[held]), rel=1e-4)


def test_holdout_of_fusion_is_that_of_the_epoch_kept(world):
    train_fusion(world("bmfl"))
    losses = [float(line.split()[2]) for line in (paths.FUSION / "seed0" / "curve.tsv").read_text().splitlines()[1:]]
    record = load_record()
    assert record["holdout"]["fusion"] == [pytest.approx(min(losses), abs=1e-6)]
    assert record["chosen"] == [{"epoch": 1 + int(np.argmin(losses))}]


@pytest.mark.parametrize("variant", ["knn", "probe_ensemble", "wise"])
def test_same_seed_same_files(world, variant):
    params, kept = world(variant), []
    for _ in range(2):
        shutil.rmtree(paths.FUSION, ignore_errors=True)
        train_fusion(params)
        kept.append({file: file.read_bytes() for file in paths.FUSION.rglob("*") if file.is_file()})
    assert kept[0] == kept[1]


@pytest.mark.parametrize("variant", ["dinov2_probe", "mlp", "attentive"])
def test_an_interrupted_baseline_ends_with_the_same_weights(world, variant, monkeypatch):
    monkeypatch.setattr(dinov2_probe, "RATES", (0.01, 0.1))
    params = world(variant, **{"fusion.mixup": 0.4, "fusion.dropout": 0.2})
    params = replace(params, runtime=replace(params.runtime, checkpoint_minutes=1e-9))
    train_fusion(params)
    expected = load_file(paths.FUSION / "seed0" / "fusion.safetensors")
    train_until(monkeypatch, params, "mixed", 7)
    torch.rand(7)
    train_fusion(params)
    found = load_file(paths.FUSION / "seed0" / "fusion.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_probes_of_an_ensemble_are_not_solved_twice(world, monkeypatch):
    params, real = world("probe_ensemble"), training.probe_ensembles
    monkeypatch.setattr(training, "probe_ensembles", interrupting_after(real))
    with pytest.raises(Interrupted):
        train_fusion(params)
    monkeypatch.setattr(training, "probe_ensembles", real)
    monkeypatch.setattr(training, "fit_probes", None)
    train_fusion(params)
    assert not paths.partial(paths.FUSION).exists()


def interrupting_after(work):
    def done(*arguments):
        work(*arguments)
        raise Interrupted

    return done


def test_pooled_data_are_the_tokens_for_whoever_reads_their_mean(world):
    world("mlp")
    data, _ = train_data()
    features = np.concatenate([inputs.probe_features().numpy() for _, inputs in data.batches(np.arange(90), CPU)])
    write_store(Path("features.zarr"), {"features": features}, {}, 32)
    rows = np.array([70, 3, 41])
    pooled = PooledData(data.tokens, data.fmri, None, data.encoder, open_store(Path("features.zarr"))["features"])
    model = randomise(Mlp(replace(SIZES, cls_width=CLS_WIDTH, patch_width=WIDTH)))
    outputs = [model(*one.inputs(one.load(rows, CPU), CPU)) for one in (data, pooled)]
    torch.testing.assert_close(outputs[0].logits, outputs[1].logits)
    assert outputs[1].brain.shape == (3, 0)


# dinov2_probe


@pytest.mark.parametrize(("layers", "counts"), [(1, (0, 1)), (4, (0, 1, 4))])
def test_the_grid_is_dinov2s(layers, counts):
    heads = dinov2_probe.grid(layers)
    assert len(heads) == 13 * len(counts)
    assert {head.gap_layers for head in heads} == set(counts)
    assert (min(heads).lr, max(heads).lr) == (1e-5, 0.1)


def test_heads_read_cls_and_the_last_layers_mean_patch(rng):
    heads = dinov2_probe.heads(SIZES, layers=2)
    cls, patches = (torch.from_numpy(rng.standard_normal(shape)).float() for shape in ((5, 6), (5, 7, 4)))
    for head, one in zip(dinov2_probe.grid(2), heads, strict=True):
        gap = patches.mean(1)[:, 4 - 2 * head.gap_layers :]
        read = torch.cat([cls, gap], dim=1)
        expected = F.linear(read, one.classify.weight, one.classify.bias)
        torch.testing.assert_close(one(cls, patches, torch.zeros(5, 0)).logits, expected)
        assert one.classify.weight.std() < 0.02
        assert not one.classify.bias.any()


def test_heads_are_trained_as_by_pytorchs_sgd_with_their_own_rates(rng, one_thread):
    inputs = torch.from_numpy(rng.standard_normal((4, 10, 5))).float()
    labels = torch.from_numpy(rng.integers(0, 3, (4, 10)))
    models = [randomise(torch.nn.Linear(5, 3), seed) for seed in (0, 1)]
    expected = [randomise(torch.nn.Linear(5, 3), seed) for seed in (0, 1)]
    schedule = Schedule(1, 10, 9.0, 0.0, 0.0, sgd=Sgd(0.9, (0.5, 0.01)))
    batches = [(np.arange(10), batch) for batch in zip(inputs, labels, strict=True)]

    def losses(batch):
        return [Loss(F.cross_entropy(model(batch[0]), batch[1]), 10) for model in models]

    fit_together(models, 40, lambda _: iter([iter(batches)]), losses, lambda: [1.0, 1.0], schedule, "test")
    for model, other, rate in zip(models, expected, (0.5, 0.01), strict=True):
        optimizer = torch.optim.SGD(other.parameters(), lr=rate, momentum=0.9)
        for step, (values, truth) in enumerate(zip(inputs, labels, strict=True)):
            optimizer.param_groups[0]["lr"] = rate * (1 if step == 0 else 0.5 * (1 + np.cos(np.pi * (step - 1) / 3)))
            optimizer.zero_grad()
            F.cross_entropy(other(values), truth).backward()
            optimizer.step()
        torch.testing.assert_close(model.weight, other.weight)


def test_the_head_of_lowest_holdout_loss_is_kept(world, monkeypatch):
    params = world("dinov2_probe", **{"fusion.batch_size": 90})
    losses, fit = np.full((2, 26), 2.0), training.fit_together
    losses[1, 17] = losses[1, 20] = 0.25
    each = iter(losses.tolist())

    def with_known_validation(models, images, epochs, losses_of, _validate, *rest):
        return fit(models, images, epochs, losses_of, lambda: next(each), *rest)

    monkeypatch.setattr(training, "fit_together", with_known_validation)
    train_fusion(params)
    record = load_record()
    assert record["chosen"] == [{"epoch": 2, "gap_layers": 1, "lr": dinov2_probe.RATES[17 - 13]}]
    assert record["holdout"]["fusion"] == [0.25]
    assert record["parameters"]["fusion"] == CLASSES * (FEATURES + 1)


# knn


def neighbours_of(rng, images=60, width=5, k=7):
    """A store of features and labels, a model that compares with the first 50, and new images' [CLS]."""
    labels = rng.integers(0, 3, images)
    features = (rng.standard_normal((images, width + 2)) + 2 * labels[:, None]).astype(np.float32)
    write_store(Path("features.zarr"), {"features": features}, {}, 16)
    rows = open_store(Path("features.zarr"))["features"]
    write_neighbours(rows, width, Path("neighbours.zarr"))
    model = NearestNeighbours(replace(SIZES, cls_width=width), images, Path("neighbours.zarr"))
    model.labels[:50] = torch.from_numpy(labels[:50])
    model.k.fill_(k)
    return model, rows, labels, torch.from_numpy(rng.standard_normal((9, width)) + 2).float()


@pytest.mark.parametrize("block", [16, 8192])
@pytest.mark.parametrize("k", [1, 7, 50])
def test_votes_are_scikit_learns_with_dinov2s_weights(rng, project, monkeypatch, block, k):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    model, _, labels, cls = neighbours_of(rng, k=k)
    stored = open_store(Path("neighbours.zarr"))["cls"][:50].astype(np.float64)
    reference = KNeighborsClassifier(k, weights=lambda distance: np.exp(-distance / 0.07), metric="cosine")
    expected = reference.fit(stored, labels[:50]).predict_proba(cls.double().numpy())
    logits = model(cls, torch.zeros(9, 1, 4), torch.zeros(9, 0)).logits
    assert torch.isfinite(logits).all()
    np.testing.assert_allclose(logits.exp().numpy(), np.maximum(expected, 1e-6), atol=2e-3)


def test_k_is_chosen_on_the_holdout_among_those_there_are(rng, project):
    model, rows, labels, _ = neighbours_of(rng)
    model.labels.fill_(-1)
    k, loss = choose_neighbours(model, rows, labels, np.arange(50), np.arange(50, 60))
    losses = {}
    for count in (10, 20):  # 100 are more than there are
        model.k.fill_(count)
        logits = model(torch.tensor(rows[50:60][:, :5]), torch.zeros(10, 1, 4), torch.zeros(10, 0)).logits
        losses[count] = cross_entropy(logits.numpy(), labels[50:60])
    assert k == min(losses, key=losses.get)
    assert loss == pytest.approx(losses[k], rel=1e-5)
    assert (model.labels >= 0).nonzero().flatten().tolist() == list(range(50))


def test_few_images_are_all_neighbours(rng, project):
    model, rows, labels, _ = neighbours_of(rng)
    model.labels.fill_(-1)
    assert choose_neighbours(model, rows, labels, np.arange(6), np.arange(50, 60))[0] == 6


def test_neighbours_want_room_on_the_disk(rng, project, monkeypatch):
    monkeypatch.setattr("neuralood.base.writing.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 10))
    with pytest.raises(UserError, match=r"neighbours.zarr needs .* GB more"):
        neighbours_of(rng)


# mlp and attentive


@given(bmfl=st.integers(2_000, 10**7), features=st.integers(1, 4_000), classes=st.integers(2, 1_000))
def test_no_other_hidden_width_is_nearer_to_bmfls_parameters(bmfl, features, classes):
    def distance(width):
        return abs(width * (features + 1) + classes * (width + 1) - bmfl)

    width = hidden_width(bmfl, features, classes)
    assert width >= 1
    assert distance(width) <= min(distance(width + 1), distance(max(1, width - 1)))


def test_an_mlp_is_as_large_as_bmfl():
    sizes = replace(SIZES, width=32, vertices=400)
    bmfl = FusionClassifier(replace(sizes, variant="bmfl"), torch.arange(400))
    counts = [sum(value.numel() for value in model.parameters()) for model in (bmfl, Mlp(sizes))]
    assert counts[0] == pytest.approx(counts[1], abs=(6 + 4 + 1 + 3) / 2)


def test_an_attentive_probe_is_softmax_attention_of_one_query(rng):
    sizes = replace(SIZES, heads=1)
    model = randomise(AttentiveProbe(sizes)).eval()
    patches = torch.from_numpy(rng.standard_normal((3, 5, 4))).float()
    look, scaled = model.look, model.scale(patches)
    keys, values = look.to_key(scaled), look.to_value(scaled)
    attention = (look.to_query(model.query) @ keys.transpose(1, 2) / 2).softmax(-1)
    expected = model.classify(model.norm(look.to_output(attention @ values)[:, 0]))
    torch.testing.assert_close(model(torch.zeros(3, 6), patches, torch.zeros(3, 0)).logits, expected)


def test_an_attentive_probe_is_as_wide_as_the_tokens_in_whole_heads():
    assert AttentiveProbe(replace(SIZES, patch_width=9, heads=4)).classify.in_features == 12


@pytest.mark.parametrize("kind", [Mlp, AttentiveProbe])
def test_a_feature_that_hardly_varied_in_training_does_not_drown_the_others(kind):
    model = kind(SIZES)
    scales = [(torch.zeros(width), torch.ones(width)) for width in (10, 4, 0)]
    for _, sd in scales[:2]:
        sd[1] = 1e-9
    model.standardise(*(Scale(*scale) for scale in scales))
    assert model.scale.sd.min() == pytest.approx(0.1)


# probe_ensemble and wise


def probe_of(rng, features, classes=3):
    mean, sd = rng.standard_normal(features), rng.uniform(0.5, 2, features)
    return Probe(mean, sd, rng.standard_normal((classes, features)), rng.standard_normal(classes), 1.0)


def test_an_ensemble_is_the_mean_of_two_probes_logits(rng):
    probes, features = [probe_of(rng, 6), probe_of(rng, 4)], rng.standard_normal((8, 10))
    expected = (probes[0].logits(features[:, :6]) + probes[1].logits(features[:, 6:])) / 2
    np.testing.assert_allclose(mean_of(probes).logits(features), expected, rtol=1e-12)
    head = LinearHead(SIZES, 4)
    head.take(mean_of(probes))
    cls, patches = torch.from_numpy(features[:, :6]).float(), torch.from_numpy(features[:, None, 6:]).float()
    logits = head(cls, patches, torch.zeros(8, 0)).logits.detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def drawn(rng, noise=1.0):
    labels = np.arange(90) % 3
    features = (rng.standard_normal((3, 6))[labels] + noise * rng.standard_normal((90, 6))).astype(np.float32)
    rows, holdout = np.arange(60), np.arange(60, 90)
    chosen = torch.from_numpy(features[rows])
    return features, labels, Split(rows, holdout, chosen.mean(0), chosen.std(0, correction=0))


def test_the_head_of_class_means_takes_the_nearest_mean(rng):
    features, labels, split = drawn(rng)
    start = replace(probe_of(rng, 6), mean=split.mean.numpy(), sd=split.sd.numpy())
    head = nearest_mean(start, class_means(start, features, labels, split.rows, CPU))
    scaled = (features - start.mean) / start.sd
    expected = NearestCentroid().fit(scaled[:60], labels[:60]).predict(scaled)
    np.testing.assert_array_equal(head.logits(features).argmax(axis=1), expected)


def test_wise_weights_lie_between_both_heads_where_the_holdout_wants_them(rng, monkeypatch):
    features, labels, split = drawn(rng, noise=2.0)
    probe = replace(probe_of(rng, 6), mean=split.mean.numpy(), sd=split.sd.numpy())
    found, chosen = interpolated(probe, features, labels, split, CPU)
    means = nearest_mean(probe, class_means(probe, features, labels, split.rows, CPU))
    held, truth = features[60:], labels[60:]
    cooled = {one: means.logits(held) / one for one in 2.0 ** np.arange(15)}
    assert chosen["temperature"] == min(cooled, key=lambda one: cross_entropy(cooled[one], truth))
    base = cooled[chosen["temperature"]]
    ways = {share / 10: base * (1 - share / 10) + probe.logits(held) * share / 10 for share in range(11)}
    assert chosen["share"] == min(ways, key=lambda one: cross_entropy(ways[one], truth))
    np.testing.assert_allclose(found.logits(held), ways[chosen["share"]], atol=1e-5)


# mixup


def test_mixup_mixes_own_images_and_labels_alike():
    torch.manual_seed(1)
    one_hot = torch.eye(6)
    inputs = Inputs(one_hot, one_hot[:, None], one_hot)
    own = torch.tensor([0, 2, 3, 5])
    found, soft = mixed(inputs, torch.arange(6), own, 6, 0.7)
    assert torch.equal(found.cls, soft)
    assert torch.equal(found.patches[:, 0], soft)
    assert torch.equal(found.fmri, soft)
    torch.testing.assert_close(soft.sum(1), torch.ones(6))
    assert torch.equal(soft[[1, 4]], one_hot[[1, 4]])
    assert not soft[own][:, [1, 4]].any()
    shares = {round(value, 5) for value in soft[own].flatten().tolist()} - {0.0, 1.0}
    assert len(shares) == 2
    assert sum(shares) == pytest.approx(1, abs=1e-4)


def test_mixup_shares_are_of_a_beta_distribution():
    torch.manual_seed(0)
    inputs, labels, own = Inputs(*(torch.eye(2) for _ in range(3))), torch.arange(2), torch.arange(2)
    shares = []
    for _ in range(1_000):
        first = float(mixed(inputs, labels, own, 2, 2.0)[1][0, 0])
        shares.append(first)
    mixtures = np.array([share for share in shares if share < 1])
    assert np.var(mixtures) == pytest.approx(1 / 20, rel=0.2)  # of Beta(2, 2)


def test_without_mixup_nothing_is_drawn_and_with_it_weights_differ(world, project, monkeypatch):
    params, real = world("bmfl", **{"fusion.epochs": 1}), training.mixed
    monkeypatch.setattr(training, "mixed", None)
    train_fusion(params)
    plain = load_file(paths.FUSION / "seed0" / "fusion.safetensors")
    monkeypatch.setattr(training, "mixed", real)
    project.edit(**{"fusion.mixup": 0.3})
    train_fusion(project.load())
    other = load_file(paths.FUSION / "seed0" / "fusion.safetensors")
    assert not torch.equal(plain["classify.weight"], other["classify.weight"])


@pytest.mark.parametrize("changes", [{"fusion.mixup": -0.1}, {"fusion.variant": "kn"}])
def test_impossible_settings_are_refused(project, changes):
    project.edit(**changes)
    with pytest.raises(UserError, match=next(iter(changes)).replace(".", r"\.")):
        project.load()
