"""BERG's linear encoders, converted: the same predictions, and never a pickle in this process."""

import hashlib
import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from helpers_berg import CHOSEN, FEATURES, ROIS, SMALL, VERTICES, berg_metadata, berg_weights, write_berg
from PIL import Image
from torchvision.models.feature_extraction import create_feature_extractor

from neuralood.backbone import Preprocessing
from neuralood.base.errors import UserError
from neuralood.data.manifest import Manifest
from neuralood.encoder import image_model
from neuralood.encoder.berg import PREPROCESSING, import_berg
from neuralood.encoder.berg_convert import flat
from neuralood.encoder.exported import read_exported
from neuralood.encoder.from_images import predict_images
from neuralood.encoder.image_model import NETWORKS, FeatureNetwork

LAYERS = {
    "vit_b_32": [f"encoder.layers.encoder_layer_{block}.add_1" for block in range(12)],
    "alexnet": [
        *("features.2", "features.5", "features.7", "features.9", "features.12"),
        *("classifier.2", "classifier.5", "classifier.6"),
    ],
}
"""The nodes of the traced network that BERG's code reads."""

TRANSFORMS = {
    "vit_b_32": torchvision.models.ViT_B_32_Weights.IMAGENET1K_V1,
    "alexnet": torchvision.models.AlexNet_Weights.IMAGENET1K_V1,
}


class Subject:
    """One subject's model: its folder, what its files hold, and the network behind it."""

    def __init__(self, top, network, rng, monkeypatch):
        monkeypatch.setattr(torchvision.models, network, SMALL[network])
        torch.manual_seed(3)
        self.network = network
        self.model = SMALL[network]().eval()
        self.weights = berg_weights(rng, FEATURES[network])
        self.metadata = berg_metadata(rng)
        self.folder = write_berg(top, network, 2, self.weights, self.metadata)
        file = self.folder / "weights.pth"
        torch.save(self.model.state_dict(), file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        file = file.rename(self.folder / f"{network}-{digest[:8]}.pth")
        monkeypatch.setitem(image_model.NETWORKS, network, replace(NETWORKS[network], file=file.name))

    @torch.inference_mode()
    def features(self, images):
        """As BERG joins them."""
        traced = create_feature_extractor(self.model, return_nodes=LAYERS[self.network])
        return torch.hstack([torch.flatten(layer, start_dim=1) for layer in traced(images).values()]).numpy()

    def predictions(self, pictures):
        """What BERG's own steps give for the chosen vertices, written plainly, in float64: I V."""
        transform = TRANSFORMS[self.network].transforms()
        features = self.features(torch.stack([transform(picture) for picture in pictures])).astype(np.float64)
        scaler, pca = self.weights["scaler_param"], self.weights["pca_param"]
        scaled = (features - scaler["mean_"]) / scaler["scale_"]
        components = (scaled - pca["mean_"]) @ pca["components_"].T.astype(np.float64)
        sides = []
        for side in ("lh", "rh"):
            fitted = self.weights[f"{side}_reg_param"]
            sides.append((components @ fitted["coef_"].T + fitted["intercept_"])[:, CHOSEN[side]])
        return np.concatenate(sides, axis=1)

    def convert(self, out, *, trust=True, subject="2"):
        """The command."""
        import_berg([*(["--trust"] if trust else []), str(self.folder), subject, str(out)])
        return read_exported(out)


@pytest.fixture(params=["vit_b_32", "alexnet"])
def subject(request, tmp_path, rng, monkeypatch):
    """Subject 2 of either model."""
    return Subject(tmp_path / "berg", request.param, rng, monkeypatch)


@pytest.fixture
def vit(tmp_path, rng, monkeypatch):
    """Subject 2 of the ViT."""
    return Subject(tmp_path / "berg", "vit_b_32", rng, monkeypatch)


@pytest.fixture
def pictures(tmp_path, rng):
    """Photos of several shapes, lossless, and their manifest."""
    sizes = [(300, 260), (224, 224), (90, 400), (256, 256), (425, 425)]
    made = [Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)) for width, height in sizes]
    (tmp_path / "photos").mkdir()
    names = [f"{number}.png" for number in range(len(made))]
    for name, picture in zip(names, made, strict=True):
        picture.save(tmp_path / "photos" / name)
    folder = str(tmp_path / "photos")
    manifest = Manifest("val", "project", folder, False, ("a",), tuple(names), (0,) * len(made), tuple(names), "x")
    return made, manifest


def test_predictions_are_those_of_bergs_own_steps(subject, tmp_path, pictures):
    made, manifest = pictures
    model, record, _, _ = subject.convert(tmp_path / "out")
    chunks = [np.array([0, 1, 2]), np.array([3, 4])]
    predicted = np.concatenate(list(predict_images(model, record["preprocessing"], manifest, chunks, 0)))
    wanted = subject.predictions(made)
    assert predicted.dtype == np.float32
    assert wanted.std(axis=0).min() > 1e-3  # images differ
    np.testing.assert_allclose(predicted, wanted, rtol=2e-4, atol=2e-4)


def test_vertices_and_rois_are_bergs(subject, tmp_path):
    model, record, _, _ = subject.convert(tmp_path / "out")
    assert record["fsaverage_vertex"] == CHOSEN["lh"] + CHOSEN["rh"]
    assert record["hemi"] == [0] * 6 + [1] * 6
    names = {"V1v": "V1v", "EBA": "EBA", "FFA-2": "FFA-2", "OVWFA": "OWFA", "early": "early-stream"}
    wanted = {f"{side}.{names[name]}": set(its) for side in ROIS for name, its in ROIS[side].items() if its}
    places, hemi = np.array(record["fsaverage_vertex"]), np.array(record["hemi"])
    found = {}
    for name, members in zip(record["roi_names"], model.membership.numpy(), strict=True):
        assert set(hemi[members]) == {("lh", "rh").index(name[:2])}
        found[name] = set(places[members].tolist())
    assert found == wanted
    assert (record["subject"], record["space"], record["trained_on"]) == ("subj02", "fsaverage", "nsd")


def test_scores_are_bergs_own(vit, tmp_path):
    _, _, scores, _ = vit.convert(tmp_path / "out")
    r = np.concatenate([vit.metadata["encoding_models"][f"{s}_correlation_nsdcore"][CHOSEN[s]] for s in CHOSEN])
    ncsnr = np.concatenate([vit.metadata["fmri"][f"{s}_ncsnr"][CHOSEN[s]] for s in CHOSEN]).astype(float)
    r, ceiling = np.nan_to_num(r), np.sqrt(ncsnr**2 / (ncsnr**2 + 1 / 3))
    assert scores["pearson"]["median"] == pytest.approx(np.median(r), abs=1e-6)
    counted = ceiling > 0.2
    assert scores["fraction_of_ceiling"] == pytest.approx(np.median(r[counted] / ceiling[counted]), abs=1e-6)
    assert (scores["n_train"], scores["n_test"], scores["n_vertices"]) == (70, 15, 12)
    assert scores["roi"]["rh.EBA"]["n_vertices"] == 3
    assert "ridge" not in scores


def test_pixels_are_those_of_torchvisions_own_transform(pictures):
    made, _ = pictures
    transform = Preprocessing(**PREPROCESSING).transform()
    for weights in TRANSFORMS.values():
        for picture in made:
            torch.testing.assert_close(transform(picture), weights.transforms()(picture), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("network", "features"), [("vit_b_32", 460_800), ("alexnet", 205_672)])
def test_the_full_networks_have_as_many_features_as_bergs(network, features):
    with torch.device("meta"):
        assert FeatureNetwork(network).eval()(torch.zeros(1, 3, 224, 224)).shape == (1, features)


@pytest.mark.parametrize("network", TRANSFORMS)
def test_weights_are_torchvisions_first(network):
    assert TRANSFORMS[network].url == f"https://download.pytorch.org/models/{NETWORKS[network].file}"


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return os.mkdir, (str(self.trap),)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("place", ["weights", "metadata"])
def test_a_hostile_pickle_never_runs(vit, tmp_path, trust, place):
    trap = tmp_path / "trap"
    contents = {"weights": vit.weights, "metadata": vit.metadata}
    write_berg(
        tmp_path / "berg",
        "vit_b_32",
        2,
        *({**it, "x": Hostile(trap)} if key == place else it for key, it in contents.items()),
    )
    said = r"it asks for (posix|nt).mkdir, which no array needs" if trust else "pickles, which can run any program"
    with pytest.raises(UserError, match=said):
        vit.convert(tmp_path / "out", trust=trust)
    assert not trap.exists()
    assert sorted(tmp_path.iterdir()) == [tmp_path / "berg"]


def test_this_process_unpickles_nothing(vit, tmp_path, monkeypatch):
    """PyTorch's own weights-only reader aside, which reads the network."""

    def refuse(*_args, **_more):
        raise AssertionError("unpickled here")

    class Refused:
        __init__ = refuse

    for name in ("load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(pickle, "Unpickler", Refused)
    vit.convert(tmp_path / "out")


def test_what_is_not_trusted_is_not_even_looked_for(tmp_path):
    with pytest.raises(UserError, match="add --trust"):
        import_berg([str(tmp_path / "model-vit_b_32"), "1", str(tmp_path / "out")])


def without(*path):
    """A change of the files: one key less."""

    def change(content):
        *above, last = path
        for key in above:
            content = content[key]
        del content[last]

    return change


CHANGES = {
    "no scaler": (without("scaler_param", "scale_"), None, "have no weights/scaler_param/scale_"),
    "no rois": (None, without("fmri", "lh_fsaverage_rois"), "have no metadata/fmri/lh_fsaverage_rois"),
    "no scores": (
        None,
        without("encoding_models", "rh_correlation_nsdcore"),
        "have no metadata/encoding_models/rh_correlation_nsdcore",
    ),
    "another surface": (
        lambda weights: weights["lh_reg_param"].update(coef_=np.zeros((10_242, 4), np.float32)),
        None,
        f"has 10242 rows, wants one of each of {VERTICES} vertices",
    ),
    "features of another network": (
        lambda weights: (
            weights["pca_param"].update(components_=np.zeros((4, 9), np.float32), mean_=np.zeros(9, np.float32)),
            weights["scaler_param"].update(scale_=np.ones(9), mean_=np.zeros(9)),
        ),
        None,
        "do not fit each other",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_files_of_another_layout_are_refused_in_one_line(vit, tmp_path, change):
    of_weights, of_metadata, said = CHANGES[change]
    if of_weights:
        of_weights(vit.weights)
    if of_metadata:
        of_metadata(vit.metadata)
    write_berg(tmp_path / "berg", "vit_b_32", 2, vit.weights, vit.metadata)
    with pytest.raises(UserError, match=said) as caught:
        vit.convert(tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_file_without_a_pickled_dict_is_refused(vit, tmp_path):
    np.save(vit.folder / "metadata" / "metadata_subject-02.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"not a pickled dict"):
        vit.convert(tmp_path / "out")


def test_a_truncated_file_is_refused(vit, tmp_path):
    file = vit.folder / "encoding_models_weights" / "weights_subject-02.npy"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cannot be converted \(.*\): download them again"):
        vit.convert(tmp_path / "out")


def test_damaged_network_weights_are_refused(vit, tmp_path):
    file = next(vit.folder.glob("*.pth"))
    file.write_bytes(file.read_bytes() + b"0")
    with pytest.raises(UserError, match="is damaged"):
        vit.convert(tmp_path / "out")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trust"], "usage: neuralood import-berg"),
        (["--trust", "model-huze", "1", "out"], "folders are called model-vit_b_32, model-alexnet"),
        (["--trust", "model-vit_b_32", "9", "out"], "subjects are 1 to 8, got 9"),
        (["--trust", "model-vit_b_32", "3", "out"], r"weights_subject-03.npy is missing"),
    ],
)
def test_a_wrong_call_is_told_in_one_line(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        import_berg(arguments)


def test_what_exists_is_not_overwritten(vit, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists: remove it"):
        vit.convert(tmp_path / "out")


def test_arrays_of_either_byte_order_are_converted():
    found = dict(flat({"a": {"b": np.array([1, 258], ">i4")}, "name": "text", "n": 3}, "top"))
    assert set(found) == {"top/a/b", "top/n"}
    assert found["top/a/b"].dtype == np.dtype("=i4")
    assert found["top/a/b"].tolist() == [1, 258]


def test_the_terms_travel_with_the_weights(vit, tmp_path):
    vit.convert(tmp_path / "out")
    terms = json.loads(Path(tmp_path, "out", "encoder.json").read_text())["terms"]
    assert "github.com/gifale95/BERG" in terms
    assert "cite it" in terms
