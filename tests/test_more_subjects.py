"""Further subjects share the encoder's trunk while it trains: what they may teach it, and what they must not."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers_data import IMAGES, SETS, fmri_of, in_project, make_params, save, write_subject
from helpers_nsd import plan, write_plan, write_stimuli, write_surface

from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.reading import host_patches, read_batches, token_statistics, training_epochs
from neuralood.base.records import write_json
from neuralood.base.seeding import derived_seed, generator
from neuralood.base.store import open_store
from neuralood.base.training import Schedule, fit
from neuralood.base.weights import fingerprint
from neuralood.base.writing import write_store
from neuralood.data.fmri import (
    TEST,
    TRAIN,
    VALIDATION,
    Measured,
    index_fmri,
    prepare_fmri,
    prepare_more,
    read_measured,
)
from neuralood.data.index import index_set
from neuralood.data.manifest import UNLABELLED, Manifest, read_manifest, write_manifest
from neuralood.data.stimuli import stimuli
from neuralood.demo.drawing import render_set
from neuralood.encoder import train as training
from neuralood.encoder.baselines.every import fit_baselines
from neuralood.encoder.controls import shuffled_fmri
from neuralood.encoder.model import RoiEncoder, RoiReadout, SharedTrunk, query_membership
from neuralood.encoder.train import build_encoder, side_by_side, train_encoder
from neuralood.encoder.trained import EXTRACTION, RECIPE, load_encoder
from neuralood.encoder.viewers import (
    first_viewer,
    further_readout,
    further_viewers,
    rows_to_train_on,
    shared_membership,
)
from stages.prepare_more import main as prepare_simulated

MORE = "nsd_subj02"
NSD_IDS = {"nsd": 7 * np.arange(IMAGES) + 13, MORE: 7 * np.arange(IMAGES)[::-1] + 13 + 70}
"""The two share all but ten images each, at other rows."""
LH, RH = 9, 17
"""Vertices of the further subject, who has another number than the first."""


def manifest(name, ids=None):
    """Images of an Algonauts subject that need not exist."""
    ids = NSD_IDS[name] if ids is None else ids
    names = tuple(
        f"training_split/training_images/train-{row:04d}_nsd-{number:05d}.png" for row, number in enumerate(ids, 1)
    )
    own = tuple(f"{name}/{path}" for path in names)
    labels = (UNLABELLED,) * len(names)
    return Manifest(name, "data_root", name, False, (), names, labels, own, f"images of {name}", "algonauts2023")


def write_tokens(name, patches, **attributes):
    made_of = {**dict.fromkeys((*RECIPE, *EXTRACTION), "a test"), "grid": [2, 2], "dataset": f"images of {name}"}
    write_store(paths.tokens(name), {"patches": patches}, {**made_of, **attributes}, 8)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The data root of a project with the fMRI of two subjects, and tokens of what they saw."""
    folder = in_project(tmp_path, monkeypatch)
    write_subject(folder / "subj01")
    write_subject(folder / "subj02", lh=LH, rh=RH)
    rng = np.random.default_rng(8)
    for side, width in (("lh", LH), ("rh", RH)):
        fmri = rng.standard_normal((IMAGES, width)).astype(np.float32)
        save(folder / f"subj02/training_split/training_fmri/{side}_training_fmri.npy", fmri)
        save(folder / f"subj02/roi_masks/{side}.floc-faces_challenge_space.npy", np.zeros(width, np.int64))
        words = np.where(np.arange(width) == 6, 1, 0)
        save(folder / f"subj02/roi_masks/{side}.floc-words_challenge_space.npy", words)
    for name in NSD_IDS:
        write_manifest(manifest(name))
        write_tokens(name, rng.standard_normal((IMAGES, 1, 4, 6)).astype(np.float32))
    return folder


def params_of(root, further=("subj02",), **encoder):
    more = {name: {"images": f"nsd_{name}", "path": name} for name in further}
    sets = {**SETS, **{entry["images"]: {"role": "fmri_more"} for entry in more.values()}}
    files = {"nsd": {"format": "algonauts2023", "path": "subj01"}}
    files |= {entry["images"]: {"format": "algonauts2023", "path": name} for name, entry in more.items()}
    rendered = {name: {"scenes": one, "style": "photo", "n": 9} for name, one in (("train", "train"), ("val", "test"))}
    small = {"epochs": 3, "batch_size": 5, "width": 8, "heads": 2, "ridge_components": 5, "bootstrap": 10}
    changes = {"sets": sets, "files": files, "rendered": rendered, "evaluation": {"ood_mean": []}}
    changes |= {"fmri": fmri_of("subj01", validation=0.2, test=0.2), "runtime": {"progress": False, "device": "cpu"}}
    return make_params(root, {**changes, "encoder": {**small, "more_subjects": more, **encoder}})


def prepare(params, root):
    """The stores of all subjects."""
    write_json(paths.FMRI_MANIFEST, index_fmri(params))
    prepare_fmri(params)
    for name in params.encoder.more_subjects:
        prepare_more(params, name, root / name)
    fit_baselines(params)


def trained(params):
    train_encoder(params)
    return load_encoder()[0]


# Images that the first subject is tested on


def held_out():
    """NSD ids of the first subject's test and validation images, by the names of the files."""
    measured = read_measured()
    return set(NSD_IDS["nsd"][(measured.split == TEST) | (measured.split == VALIDATION)].tolist())


def test_no_held_out_image_is_trained_on_and_all_others_are(root):
    params = params_of(root)
    prepare(params, root)
    first = first_viewer(params)
    (further,) = further_viewers(params, first)
    trained_on = set(NSD_IDS[MORE][further.train].tolist())
    assert len(held_out()) == 12
    assert held_out() & set(NSD_IDS[MORE].tolist())
    assert trained_on == set(NSD_IDS[MORE].tolist()) - held_out()


@pytest.mark.parametrize("held", [True, False])
def test_what_a_further_subject_answered_to_held_out_images_changes_nothing(root, held):
    params = params_of(root)
    prepare(params, root)
    before = fingerprint(trained(params))
    rows = np.flatnonzero(np.isin(NSD_IDS[MORE], sorted(held_out())) == held)
    assert len(rows)
    patches = open_store(paths.tokens(MORE))["patches"][:]
    patches[rows] = 7.0
    write_tokens(MORE, patches)
    for side in ("lh", "rh"):
        file = root / f"subj02/training_split/training_fmri/{side}_training_fmri.npy"
        fmri = np.load(file)
        fmri[rows] = fmri[rows[::-1]] - 3
        save(file, fmri)
    prepare(params, root)
    assert (fingerprint(trained(params)) == before) == held


def test_the_split_that_counts_is_the_first_subjects_own(root):
    """Not one drawn for the further subject, whose images have other rows."""
    prepare(params_of(root), root)
    first, further = read_measured(), read_measured(paths.more_measured("subj02"))
    assert (further.split == TRAIN).all()
    for part in (TEST, VALIDATION):
        alone = replace(first, split=np.where(first.split == part, part, TRAIN).astype(np.int8))
        rows = rows_to_train_on(further, manifest(MORE), alone, manifest("nsd"))
        gone = np.setdiff1d(np.arange(IMAGES), rows)
        assert set(NSD_IDS[MORE][gone]) == set(NSD_IDS["nsd"][first.rows(part)]) & set(NSD_IDS[MORE])


def test_the_datasets_own_test_images_are_not_trained_on(root):
    for side, width in (("lh", LH), ("rh", RH)):
        save(root / f"subj02/test_split/test_fmri/{side}_test_fmri.npy", np.ones((4, width), np.float32))
    ids = [*NSD_IDS[MORE], 900, 901, 902, 903]
    write_manifest(manifest(MORE, ids))
    write_tokens(MORE, np.zeros((IMAGES + 4, 1, 4, 6), np.float32))
    params = params_of(root)
    prepare(params, root)
    measured = read_measured(paths.more_measured("subj02"))
    assert (measured.split == [TRAIN] * IMAGES + [TEST] * 4).all()
    rows = rows_to_train_on(measured, manifest(MORE, ids), read_measured(), manifest("nsd"))
    assert rows.max() < IMAGES


def test_too_few_images_that_are_left_are_an_error(root):
    params = params_of(root)
    prepare(params, root)
    images = manifest(MORE, NSD_IDS["nsd"][np.resize(np.flatnonzero(read_measured().split != TRAIN), IMAGES)])
    write_manifest(images)
    with pytest.raises(UserError, match=r"more_subjects\.subj02: of 30 images 0 are left to train on"):
        train_encoder(params)


def test_an_algonauts_image_without_an_id_is_an_error():
    images = replace(manifest(MORE), paths=("train-0001.png",))
    with pytest.raises(UserError, match=r"nsd_subj02 lists train-0001\.png, expected a name such as"):
        stimuli(images)


def test_ids_of_both_releases_of_nsd_are_the_same():
    ids = [0, 13, 72_999]
    names = tuple(f"nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5::{number}" for number in ids)
    of_nsd = replace(manifest("nsd", ids), paths=names, format="nsd")
    assert stimuli(of_nsd) == stimuli(manifest(MORE, ids)) == ["nsd-0", "nsd-13", "nsd-72999"]


# NSD itself


def nsd_params_of_two(data):
    """Subject 2 of NSD, and subject 3 to train on as well."""
    files = {
        name: {"format": "nsd", "path": "nsd", "subject": who} for name, who in (("nsd", "subj02"), ("more", "subj03"))
    }
    rendered = {name: {"scenes": one, "style": "photo", "n": 9} for name, one in (("train", "train"), ("val", "test"))}
    fmri = {"source": "nsd", "subject": "subj02", "space": "fsaverage", "validation": 0.25, "simulated": {}}
    fmri["files"] = {"subj02": {"format": "nsd", "path": "nsd"}}
    sets = {**SETS, "more": {"role": "fmri_more"}}
    changes = {"sets": sets, "files": files, "rendered": rendered, "fmri": fmri, "evaluation": {"ood_mean": []}}
    return make_params(data, {**changes, "encoder": {"more_subjects": {"subj03": {"images": "more", "path": "nsd"}}}})


def test_images_that_subjects_of_nsd_share_are_not_trained_on_where_the_first_is_tested(tmp_path, monkeypatch, rng):
    """Both were shown the same images, which in truth the shared ones alone are; subject 3 came to fewer sessions."""
    data = in_project(tmp_path, monkeypatch)
    first = plan(rng)
    first.subjectim[2] = first.subjectim[1]
    further = replace(first, subject=3, trials=(20, 22))
    for one in (first, further):
        write_plan(data / "nsd", one)
        write_surface(data / "nsd", one, rng)
    write_stimuli(data / "nsd", first.ids)
    params = nsd_params_of_two(data)
    for name in ("nsd", "more"):
        write_manifest(index_set(name, params))
    write_json(paths.FMRI_MANIFEST, index_fmri(params))
    prepare_fmri(params)
    seen, own = np.unique(further.ids), np.unique(first.ids)
    write_store(paths.tokens("more"), {"patches": np.zeros((len(seen), 1, 4, 6), np.float32)}, {}, 8)
    prepare_more(params, "subj03", data / "nsd")

    measured, split = read_measured(paths.more_measured("subj03")), read_measured().split
    rows = rows_to_train_on(measured, read_manifest("more"), read_measured(), read_manifest("nsd"))
    assert measured.subject == "subj03"
    assert set(own[split == VALIDATION]) & set(seen)
    assert set(first.shared) & set(seen)
    assert set(seen[rows]) == set(seen) - set(first.shared) - set(own[split == VALIDATION])


# Training


def test_the_kept_encoder_is_the_first_subjects_alone(root):
    params = params_of(root)
    prepare(params, root)
    model, measured = trained(params), read_measured()
    assert type(model) is RoiEncoder
    assert model.membership.shape[1] == len(measured.hemi) != LH + RH
    assert json.loads(paths.ENCODER_METRICS.read_text())["n_train"] == len(measured.rows(TRAIN))


def test_a_further_subject_changes_the_trunk(root):
    params = params_of(root)
    prepare(params, root)
    with_more, alone = trained(params), trained(params_of(root, further=()))
    assert not torch.equal(with_more.queries, alone.queries)


def test_without_further_subjects_training_is_that_of_the_encoder_alone(root):
    """To the last bit: the same loop about the bare encoder, its one readout and its one batch."""
    params = params_of(root, further=(), dropout=0.2, depth=2)
    prepare(params, root)
    found, measured, tokens = trained(params), read_measured(), open_store(paths.tokens("nsd"))
    train, validation = measured.rows(TRAIN), measured.rows(VALIDATION)
    model = build_encoder(params, measured, tokens, derived_seed(params.seed, "encoder weights"))
    model.standardise_by(*token_statistics(tokens, train))
    target, arrays = torch.tensor(measured.fmri[:]), (tokens["patches"],)

    def load(rows):
        return host_patches(tokens, rows, pin=False), target[rows]

    def loss_of(batch):
        return F.mse_loss(model(batch[0].on(torch.device("cpu"))), batch[1])

    def validate():
        losses = [float(loss_of(batch)) * len(rows) for rows, batch in read_batches(arrays, validation, 256, load)]
        return sum(losses) / len(validation)

    def epochs_after(steps):
        rng = generator(params.seed, "encoder batches")
        return training_epochs(arrays, train, params.encoder.shuffle_buffer, 5, load, rng, steps)

    schedule = Schedule(3, 5, params.encoder.lr, params.encoder.warmup, params.encoder.weight_decay)
    fit(model, len(train), epochs_after, loss_of, validate, schedule, "alone")
    assert found.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.state_dict().items())


def train_until_stopped(params, losses, monkeypatch):
    """Train, but for a Ctrl-C after so many losses."""
    left, loss = iter(range(losses)), F.mse_loss

    def stopping(*arguments):
        if torch.is_grad_enabled() and next(left, None) is None:
            raise KeyboardInterrupt
        return loss(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(F, "mse_loss", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_encoder(params)


@pytest.mark.parametrize("stopped_after", [1, 4, 7, 10])
def test_an_interrupted_training_ends_with_the_same_weights(root, monkeypatch, stopped_after):
    """The first has 18 images in 4 batches; the other's epochs of 3 or more end elsewhere."""
    params = params_of(root, dropout=0.2)
    prepare(params, root)
    wanted = fingerprint(trained(params))
    params = replace(params, runtime=replace(params.runtime, checkpoint_minutes=1e-9))
    train_until_stopped(params, 2 * stopped_after, monkeypatch)
    asked = []
    monkeypatch.setattr(training, "training_epochs", lambda *a: asked.append(a[-1]) or training_epochs(*a))
    assert fingerprint(trained(params)) == wanted
    assert asked == [stopped_after, stopped_after]


def test_a_checkpoint_is_of_these_further_subjects_alone(root):
    params = params_of(root)
    prepare(params, root)
    first = first_viewer(params)
    (further,) = further_viewers(params, first)
    changed = [
        replace(further, measured=replace(further.measured, fingerprint="another")),
        replace(further, tokens=first.tokens),
    ]
    of = [training._checkpoint(params, [first, one], "none", 0).identity for one in (further, *changed)]
    of.append(training._checkpoint(params, [first], "none", 0).identity)
    assert len(set(of)) == 4


def test_batches_of_the_others_run_on_over_the_epochs_of_the_first():
    def epochs(name, *lengths):
        for length in lengths:
            yield iter([(np.array([step]), f"{name}{step}") for step in range(length)])

    others = [iter([(None, f"b{step}") for step in range(9)]), iter([(None, f"c{step}") for step in range(9)])]
    found = [[(int(rows[0]), batch) for rows, batch in epoch] for epoch in side_by_side(epochs("a", 2, 3), others)]
    assert found == [
        [(0, ["a0", "b0", "c0"]), (1, ["a1", "b1", "c1"])],
        [(0, ["a0", "b2", "c2"]), (1, ["a1", "b3", "c3"]), (2, ["a2", "b4", "c4"])],
    ]


@pytest.mark.parametrize("changes", [{"layers": ["other"]}, {"weights": "other"}])
def test_tokens_that_the_first_subjects_are_not_like_are_refused(root, changes):
    params = params_of(root)
    write_tokens(MORE, np.zeros((IMAGES, 1, 4, 6), np.float32), **changes)
    prepare(params, root)
    with pytest.raises(UserError, match=rf"nsd_subj02\.zarr was made differently: {next(iter(changes))}"):
        train_encoder(params)


def test_tokens_of_other_images_are_refused(root):
    params = params_of(root)
    prepare(params, root)
    write_tokens(MORE, np.zeros((IMAGES, 1, 4, 6), np.float32), dataset="other")
    with pytest.raises(UserError, match=r"nsd_subj02\.zarr and .*more/subj02\.zarr are of different images"):
        train_encoder(params)


# Queries and vertices


def as_measured(names, roi, hemi):
    nothing = dict.fromkeys(("fmri", "split", "ceiling", "fsaverage_vertex", "vertices_left_out", "rois_left_out"))
    more = dict.fromkeys(("source", "subject", "space", "simulated", "dataset", "fingerprint"))
    return Measured(roi=np.array(roi, bool), roi_names=names, hemi=np.array(hemi, np.int8), **nothing, **more)


def test_rois_of_one_name_share_a_query_and_all_else_goes_to_the_rest():
    first = as_measured(("lh.V1v", "lh.EBA", "rh.V1v"), [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], [0, 0, 0, 1])
    further = as_measured(
        ("lh.V1v", "lh.PPA", "rh.V1v"), [[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0]], [0, 0, 0, 1, 1]
    )
    assert shared_membership(first, further).astype(int).tolist() == [
        [1, 1, 0, 0, 0],  # lh.V1v
        [0, 0, 0, 0, 0],  # lh.EBA, which the further subject lacks
        [0, 0, 0, 1, 0],  # rh.V1v
        [0, 0, 1, 0, 0],  # rest of lh, with the vertex that is in PPA alone; the first has no rest in rh
    ]


def test_the_rest_of_each_hemisphere_has_its_own_query():
    first = as_measured(("lh.V1v",), [[1, 0, 0]], [0, 0, 1])
    further = as_measured(("lh.V1v",), [[0, 0, 1, 0]], [0, 1, 0, 1])
    own = query_membership(torch.tensor(first.roi), torch.tensor(first.hemi))
    assert own.int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert shared_membership(first, further).astype(int).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 1]]


def test_batches_of_each_subject_are_drawn_apart(root, monkeypatch):
    params, asked = params_of(root, epochs=1), []
    prepare(params, root)
    monkeypatch.setattr(training, "generator", lambda *names: asked.append(names[1:]) or generator(*names))
    train_encoder(params)
    assert asked == [("encoder batches",), ("encoder batches", "subj02")]


def test_each_further_subject_starts_from_weights_of_its_own(root):
    params = params_of(root)
    prepare(params, root)
    first = first_viewer(params)
    (further,) = further_viewers(params, first)
    weights = [
        further_readout(first, replace(further, names=(name,)), 8, 0).weight for name in ("subj02", "subj03", "subj02")
    ]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])


def test_no_roi_in_common_is_an_error(root):
    params = params_of(root)
    prepare(params, root)
    first = first_viewer(params)
    bare = replace(first.measured, roi=np.ones((1, len(first.measured.hemi)), bool), roi_names=("lh.PPA",))
    (further,) = further_viewers(params, first)
    with pytest.raises(UserError, match=r"more_subjects: subj02 has no ROI of subj01's"):
        further_readout(replace(first, measured=bare), further, 8, 0)


def test_a_readout_leaves_out_queries_without_vertices():
    """Against autograd through a dense product."""
    torch.manual_seed(0)
    membership = torch.tensor([[1, 0, 1], [0, 0, 0], [0, 1, 1]]).bool()
    readout, tokens = RoiReadout(membership, 4), torch.randn(5, 3, 4, requires_grad=True)
    dense = torch.zeros(3, 3, 4).index_put(membership.nonzero(as_tuple=True), readout.weight)
    expected = torch.einsum("bqw,qvw->bv", tokens, dense) + readout.bias
    upstream = torch.randn(5, 3)
    wanted = torch.autograd.grad(expected, [tokens, readout.weight], upstream)
    found = torch.autograd.grad(readout(tokens), [tokens, readout.weight], upstream)
    torch.testing.assert_close(found, wanted)
    assert (found[0][:, 1] == 0).all()


def test_each_readout_reads_the_tokens_of_its_own_images():
    torch.manual_seed(0)
    encoder = RoiEncoder(
        torch.eye(2).bool(), grid=[2, 2], token_width=6, width=8, depth=1, heads=2, dropout=0.0,
        positions="learned", start="queries",
    )  # fmt: skip
    readout = RoiReadout(torch.ones(2, 5).bool(), 8)
    one, other = torch.randn(3, 4, 6), torch.randn(2, 4, 6)
    found = SharedTrunk(encoder, [readout])([one, other])
    assert [tuple(fmri.shape) for fmri in found] == [(3, 2), (2, 5)]
    assert torch.equal(found[0], encoder(one))
    assert torch.equal(found[1], readout(encoder.roi_tokens(other)))


# Controls


def seen_by_fit(params, monkeypatch):
    """The viewers that each training of a run is given."""
    calls, real_fit = [], training._fit
    monkeypatch.setattr(
        training,
        "_fit",
        lambda params, trunk, viewers, *a: calls.append(viewers) or real_fit(params, trunk, viewers, *a),
    )
    train_encoder(params)
    return calls


def test_shuffled_shuffles_the_fmri_of_each_subject_among_its_own_images(root, monkeypatch):
    params = params_of(root, control="shuffled")
    prepare(params, root)
    (first, further), shuffled = seen_by_fit(params, monkeypatch)
    for viewer, mixed, names in ((first, shuffled[0], ()), (further, shuffled[1], ("subj02",))):
        draws = generator(params.seed, "shuffled fMRI", *names)
        assert np.array_equal(mixed.fmri, shuffled_fmri(viewer.fmri, [viewer.train, viewer.validation], draws))
        assert not (mixed.fmri[viewer.train] == viewer.fmri[viewer.train]).all(axis=1).any()
        assert len(viewer.train) > 2


def test_untrained_weights_know_nobody(root):
    params = params_of(root, control="untrained")
    prepare(params, root)
    assert fingerprint(trained(params)) == fingerprint(trained(params_of(root, further=(), control="untrained")))


def test_features_take_the_place_of_every_subjects_fmri(root, monkeypatch):
    params = params_of(root, control="features")
    prepare(params, root)
    monkeypatch.setattr(training, "_feature_targets", lambda params, viewer: 0 * viewer.fmri)
    (viewers,) = seen_by_fit(params, monkeypatch)
    assert [one.set_name for one in viewers] == ["nsd", MORE]
    assert all((one.fmri == 0).all() for one in viewers)


# The simulated world


@pytest.fixture
def simulated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("subj02", "subj03")
    sets = {**SETS, **{f"nsd_{name}": {"role": "fmri_more"} for name in names}}
    rendered = {name: {"scenes": {"train": "train", "val": "test"}.get(name, "nsd"), "n": 30} for name in sets}
    changes = {"sets": sets, "rendered": {name: {**one, "style": "photo"} for name, one in rendered.items()}}
    more = {name: {"images": f"nsd_{name}"} for name in names}
    return make_params(tmp_path, {**changes, "encoder": {"more_subjects": more}, "evaluation": {"ood_mean": []}})


def test_simulated_subjects_have_scenes_and_brains_of_their_own(simulated):
    names = [name for name, one in simulated.sets.items() if one.role in ("fmri", "fmri_more")]
    for name in names:
        render_set(simulated, name)
    pixels = {name: [file.read_bytes() for file in read_manifest(name).image_files()] for name in names}
    assert len({content for one in pixels.values() for content in one}) == sum(len(one) for one in pixels.values())
    assert not set(stimuli(read_manifest("nsd"))) & set(stimuli(read_manifest("nsd_subj02")))
    assert stimuli(read_manifest("nsd"))[:2] == ["nsd/00000", "nsd/00001"]
    for name in ("nsd_subj02", "nsd_subj03"):
        write_tokens(name, np.zeros((30, 1, 4, 6), np.float32))
        prepare_simulated(simulated, name.removeprefix("nsd_"))
    one, other = (read_measured(paths.more_measured(name)) for name in ("subj02", "subj03"))
    assert (one.simulated, one.subject, other.subject) == (True, "subj02", "subj03")
    assert not np.allclose(one.ceiling, other.ceiling)
