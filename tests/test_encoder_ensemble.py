"""Several encoders as one: what they predict, how they are trained, kept and resumed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import randomise
from test_more_subjects import params_of, prepare, root, train_until_stopped, trained  # noqa: F401

from neuralood.base import paths
from neuralood.base.reading import training_epochs
from neuralood.base.store import open_store
from neuralood.base.training import Epoch
from neuralood.base.weights import fingerprint
from neuralood.encoder import train as training
from neuralood.encoder.controls import kept_epoch
from neuralood.encoder.model import EncoderEnsemble, RoiEncoder, roi_encoder
from neuralood.encoder.train import train_encoder
from neuralood.encoder.trained import load_encoder, predict, save_encoder
from neuralood.report.outputs import read_curve

MEMBERSHIP = torch.tensor([[1, 1, 0, 0, 1], [0, 0, 1, 1, 0]]).bool()
SIZES = {
    "grid": [2, 3],
    "token_width": 4,
    "width": 8,
    "depth": 1,
    "heads": 2,
    "dropout": 0.0,
    "positions": "learned",
    "start": "queries",
}


@pytest.fixture
def ensemble():
    return randomise(roi_encoder(MEMBERSHIP, ensemble=3, **SIZES)).eval()


@pytest.fixture
def patches():
    return torch.randn(7, 6, 4, generator=torch.Generator().manual_seed(1))


def test_it_predicts_the_mean_of_its_members(ensemble, patches):
    members = [member(patches) for member in ensemble.members]
    assert (members[0] - members[1]).abs().max() > 0.1
    torch.testing.assert_close(ensemble(patches), sum(members) / 3)


def test_its_attention_is_the_mean_of_its_members(ensemble, patches):
    found = ensemble.attention(patches)
    torch.testing.assert_close(found, sum(member.attention(patches) for member in ensemble.members) / 3)
    torch.testing.assert_close(found.sum(-1), torch.ones(7, 2))


def test_its_sizes_make_another_like_it(ensemble):
    other = roi_encoder(ensemble.membership, **ensemble.sizes)
    assert [value.shape for value in other.state_dict().values()] == [
        value.shape for value in ensemble.state_dict().values()
    ]
    other.standardise_by(torch.full((4,), 3.0), torch.full((4,), 2.0))
    assert all((member.token_mean == 3).all() and (member.token_sd == 2).all() for member in other.members)
    assert (other.token_mean == 3).all()
    assert (other.token_sd == 2).all()


def test_one_is_a_plain_encoder():
    assert type(roi_encoder(MEMBERSHIP, **SIZES)) is RoiEncoder


def test_the_first_member_is_the_single_encoder_and_all_differ(root):  # noqa: F811
    params = params_of(root, further=(), dropout=0.2)
    prepare(params, root)
    single, several = trained(params), trained(params_of(root, further=(), dropout=0.2, ensemble=3))
    assert type(several) is EncoderEnsemble
    assert fingerprint(several.members[0]) == fingerprint(single)
    assert len({fingerprint(member) for member in several.members}) == 3


def test_members_start_from_other_weights_and_see_other_batches(root, monkeypatch):  # noqa: F811
    params = params_of(root, further=(), ensemble=2)
    prepare(params, root)
    starts, orders = [], []
    monkeypatch.setattr(
        training, "fit", lambda trunk, images, epochs, *a: starts.append(fingerprint(trunk)) or next_rows(epochs)
    )

    def next_rows(epochs):
        orders.append(np.concatenate([rows for rows, _ in next(epochs(0))]).tolist())
        return [Epoch(1, 1.0, 1.0)]

    train_encoder(params)
    assert starts[0] != starts[1]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_it_is_kept_and_loaded_whole(root):  # noqa: F811
    params = params_of(root, further=(), ensemble=2)
    prepare(params, root)
    train_encoder(params)
    model, record = load_encoder()
    assert record["sizes"]["ensemble"] == 2
    assert record["fingerprint"] == fingerprint(model)
    tokens = open_store(paths.tokens("nsd"))
    first, second = (predict(member, tokens, np.arange(4)) for member in model.members)
    np.testing.assert_allclose(predict(model, tokens, np.arange(4)), (first + second) / 2, atol=1e-6)


def test_every_member_shares_its_trunk_with_further_subjects(root):  # noqa: F811
    params = params_of(root, ensemble=2)
    prepare(params, root)
    several, alone = trained(params), trained(params_of(root, further=(), ensemble=2))
    for member, other in zip(several.members, alone.members, strict=True):
        assert not torch.equal(member.queries, other.queries)


@pytest.mark.parametrize("control", ["none", "shuffled", "untrained"])
def test_every_member_has_a_curve(root, control):  # noqa: F811
    params = params_of(root, further=(), ensemble=2, control=control)
    prepare(params, root)
    train_encoder(params)
    curves = [read_curve(paths.encoder_curve(number)) for number in range(2)]
    assert paths.encoder_curve(1).name == "curve1.tsv"
    assert [bool(curve) for curve in curves] == 2 * [control != "untrained"]
    assert load_encoder()[1]["epochs"] == kept_epoch(curves[0], control)


@pytest.mark.parametrize(("control", "kept"), [("none", 2), ("features", 2), ("shuffled", 3)])
def test_shuffled_keeps_its_last_epoch_the_others_their_best(control, kept):
    assert kept_epoch([Epoch(1, 1, 0.5), Epoch(2, 1, 0.3), Epoch(3, 1, 0.4)], control) == kept
    assert kept_epoch([], control) == 0


@pytest.mark.parametrize(("control", "stopped_after"), [("none", 7), ("none", 17), ("shuffled", 14), ("shuffled", 20)])
def test_an_interrupted_training_ends_with_the_same_weights(root, monkeypatch, control, stopped_after):  # noqa: F811
    """A member has 12 steps, and first as many of the measured fMRI under `shuffled`."""
    params = params_of(root, further=(), dropout=0.2, ensemble=2, control=control)
    prepare(params, root)
    wanted = fingerprint(trained(params))
    params = replace(params, runtime=replace(params.runtime, checkpoint_minutes=1e-9))
    train_until_stopped(params, stopped_after, monkeypatch)
    asked = []
    monkeypatch.setattr(training, "training_epochs", lambda *a: asked.append(a[-1]) or training_epochs(*a))
    assert fingerprint(trained(params)) == wanted
    if control == "none":
        assert asked == ([12, stopped_after - 12] if stopped_after > 12 else [stopped_after, 0])


def test_an_ensemble_on_meta_weights_is_filled(ensemble, tmp_path, monkeypatch):
    """As an exported one is checked: built without memory, then given its weights."""
    from neuralood.encoder.trained import empty_encoder

    weights = ensemble.state_dict()
    empty = empty_encoder({"reads": "tokens", "sizes": ensemble.sizes}, weights)
    empty.load_state_dict(weights, assign=True)
    assert fingerprint(empty) == fingerprint(ensemble)


def test_image_only_fusion_gets_as_many_encoders_of_its_own(ensemble):
    from types import SimpleNamespace

    from neuralood.fusion.train import build_fusion

    shapes = {"cls": np.empty((3, 4)), "patches": np.empty((3, 1, 6, 4))}
    settings = SimpleNamespace(variant="image_only", patch=2, depth=1, heads=2, width=8, dropout=0.0, token_dropout=0.0)
    data = SimpleNamespace(tokens=shapes, layers=1)
    model = build_fusion(settings, data, 3, torch.arange(5), ensemble, 0)
    assert type(model.encoder) is EncoderEnsemble
    assert len(model.encoder.members) == 3
    assert model(torch.randn(2, 4), torch.randn(2, 6, 4), torch.zeros(2, 5)).logits.shape == (2, 3)


def test_saving_wants_no_shared_memory(ensemble, root):  # noqa: F811
    """safetensors refuses tensors that share memory, as memberships of members could."""
    params = params_of(root, further=())
    prepare(params, root)
    from neuralood.data.fmri import read_measured

    save_encoder(ensemble, open_store(paths.tokens("nsd")), read_measured(), "none", 1)
    assert Path(paths.ENCODER / "encoder.safetensors").exists()
