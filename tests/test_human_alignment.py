"""Classifiers beside people: stimuli, experiments, resampling, the stage on 1000 classes, and heads of timm models."""

import csv
import json
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import DELETE, randomise
from helpers_data import files_params
from helpers_fusion import CLS_WIDTH, GRID, VERTICES, WIDTH, make_world, write_tokens
from PIL import Image
from torch import nn

from neuralood import cli
from neuralood.backbone import Preprocessing
from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.records import write_json
from neuralood.base.store import decode_ids
from neuralood.base.writing import write_store
from neuralood.config import Experiment
from neuralood.data.imagenet.categories import CATEGORIES, MEMBERS, category_members
from neuralood.data.imagenet.wnids import WNIDS
from neuralood.data.index import index_set
from neuralood.data.manifest import read_manifest, write_manifest
from neuralood.fusion.model import FusionClassifier, FusionSizes
from neuralood.fusion.probe import Probe
from neuralood.fusion.trained import save_seed
from neuralood.humans import heads
from neuralood.humans.agreement import agreement, agreement_among, agreement_with, error_consistency, shape_bias
from neuralood.humans.alignment import compare_humans
from neuralood.humans.comparison import compare
from neuralood.humans.experiments import DROPPED, counted_images, read_people
from neuralood.humans.resampling import BLOCK, draw_images, mean_kappa, pooled_shape_bias
from neuralood.humans.trials import Observer
from neuralood.summary import _humans
from stages.evaluate import main as evaluate_stage
from stages.map_categories import main as map_categories
from stages.synthesize import main as synthesize

COLUMNS = ("subj", "session", "trial", "rt", "object_response", "category", "condition", "imagename")
SET = "stimuli"


def numbers(*names):
    return np.array([CATEGORIES.index(name) for name in names])


def observer(answers, truth=None, conditions=None, name="subject-01", images=None):
    count = len(answers)
    truth = np.zeros(count, int) if truth is None else np.asarray(truth)
    images = images or tuple(f"airplane{number}.png" for number in range(count))
    return Observer(name, tuple(images), tuple(conditions or "0" * count), truth, np.asarray(answers))


def random_observers(rng, count, trials, conditions=None):
    """Observers of the same images, whose answers are right two times of three."""
    truth = rng.integers(16, size=trials)
    wrong = (truth + rng.integers(1, 16, size=(count, trials))) % 16
    answers = np.where(rng.random((count, trials)) < 2 / 3, truth, wrong)
    return [observer(one, truth, conditions, f"subject-{number:02d}") for number, one in enumerate(answers, 1)]


def write_answers(folder, experiment, people, images, truth, conditions=None):
    """CSV files as the data sets have them: people's names and answers, by names of categories or 'na'."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, answers in people.items():
        with (folder / f"{experiment}_{name}_session_1.csv").open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(COLUMNS)
            for trial, (image, right, answer) in enumerate(zip(images, truth, answers, strict=True)):
                condition = conditions[trial] if conditions else "0"
                table.writerow([name, 1, trial, 0.9, answer, right, condition, f"0001_x_s01_0_{right}_00_{image}"])


# Stimuli


def write_images(root, *names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / name)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NEURALOOD_DATA", raising=False)
    return tmp_path / "data" / "raw"


def index(**entry):
    sets = {SET: {"role": "probe"}}
    return index_set(SET, files_params(Path(), sets, **{SET: {"format": "human_stimuli", "path": SET, **entry}}))


def test_stimuli_in_folders_have_their_folders_category(root):
    write_images(root / SET, "dog/dog1-cat2.png", "cat/cat3-dog1.png", "cat/cat1-cat2.png")
    found = index()
    assert found.paths == ("cat/cat1-cat2.png", "cat/cat3-dog1.png", "dog/dog1-cat2.png")
    assert [found.classes[label] for label in found.labels] == ["cat", "cat", "dog"]
    assert found.classes == CATEGORIES
    assert found.cropped


def test_stimuli_of_several_conditions_have_the_category_of_their_name(root):
    names = ("0002_cl_dnn_bw_cat_00_n02123045_1.png", "0001_cl_dnn_cr_oven_40_n04111531_14126.png")
    write_images(root / SET, *(f"dnn/session-1/{name}" for name in names))
    found = index()
    assert [Path(path).name for path in found.paths] == list(names)
    assert [found.classes[label] for label in found.labels] == ["cat", "oven"]


def test_an_image_can_be_left_out(root):
    write_images(root / SET, "cat/cat1.png", "cat/cat2.png")
    assert index(exclude=["cat/cat2.png"]).paths == ("cat/cat1.png",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiger/tiger1.png", r"is not laid out as human_stimuli: expected dnn/session-1, or a folder .*found tiger"),
        ("dnn/session-1/cat.png", r"expected names such as 0001_cl_dnn_cr_oven.*found cat\.png"),
        ("dnn/session-1/0001_cl_dnn_cr_tiger_40_n0_1.png", r"expected names such as .*found tiger"),
    ],
)
def test_stimuli_of_another_layout_are_refused(root, name, message):
    write_images(root / SET, name)
    with pytest.raises(UserError, match=message):
        index()


# Categories


def test_the_classes_of_imagenet_make_up_all_16_categories():
    assert category_members(WNIDS) == MEMBERS


def test_some_wnids_and_plain_names_make_up_some_categories():
    classes = [WNIDS[499], "dog", "giraffe", WNIDS[0], WNIDS[440], WNIDS[907]]
    assert category_members(classes) == {"bottle": (4, 5), "dog": (1,), "knife": (0,)}
    assert category_members(["a", "b"]) == {}


# Experiments


def test_every_experiment_of_params_has_its_dropped_conditions():
    assert get_args(Experiment) == tuple(DROPPED)
    assert len(DROPPED) == 17


@pytest.mark.parametrize("prefix", ["cue-conflict", "style-transfer-512-nomask-experiment"])
def test_people_are_read_under_either_name_and_networks_left_aside(tmp_path, prefix):
    people = {"subject-01": ["cat"], "subject-02": ["na"], "alexnet": ["dog"]}
    write_answers(tmp_path, prefix, people, ["cat1-dog1.png"], ["cat"])
    assert [person.name for person in read_people(tmp_path, "cue-conflict")] == ["subject-01", "subject-02"]


def test_one_person_alone_is_refused(tmp_path):
    write_answers(tmp_path, "edge", {"subject-01": ["cat"], "vgg": ["cat"]}, ["cat1.png"], ["cat"])
    with pytest.raises(UserError, match="has edge answers of 1 people"):
        read_people(tmp_path, "edge")


@pytest.mark.parametrize(
    ("experiment", "conditions", "counted"),
    [
        ("uniform-noise", ("0.00", "0.03", "0.6", "0.10", "0.90"), [1, 3]),
        ("false-colour", ("true", "false", "True", "False"), [1, 3]),
        ("high-pass", ("inf", "3", "3.0", "0.4"), [1, 2]),
        ("eidolonII", ("1-3-10", "2-3-10"), [1]),
        ("sketch", ("0", "0"), [0, 1]),
    ],
)
def test_conditions_that_averages_leave_out_do_not_count(experiment, conditions, counted):
    shown = observer(np.zeros(len(conditions), int), conditions=conditions)
    assert counted_images(shown, experiment, CATEGORIES) == [shown.images[row] for row in counted]


def test_images_of_categories_that_a_classifier_lacks_do_not_count():
    shown = observer([0, 0, 0], numbers("cat", "dog", "oven"), images=("cat1.png", "dog1.png", "oven1.png"))
    assert counted_images(shown, "edge", {"cat", "oven"}) == ["cat1.png", "oven1.png"]
    shown = observer([0, 0], numbers("cat", "dog"), images=("cat1-dog1.png", "dog1-oven2.png"))
    assert counted_images(shown, "cue-conflict", {"cat", "dog"}) == ["cat1-dog1.png"]
    with pytest.raises(UserError, match="edge: no image is left"):
        counted_images(observer([0]), "edge", {"cat"})


def test_agreement_is_averaged_over_conditions():
    """Within each condition the two agree by chance alone, over both they do not."""
    one = observer([0, 0, 0, 0, 1, 1, 1, 1], conditions="aaaabbbb")
    other = observer([0, 0, 0, 1, 1, 1, 1, 0], conditions="aaaabbbb")
    assert agreement(one, other).kappa == pytest.approx(0)
    assert agreement(one, other).observed == pytest.approx(0.75)
    assert error_consistency(one.correct, other.correct) == pytest.approx(0.5)


# Resampling


@pytest.mark.parametrize("conditions", [None, "ab" * 60])
def test_without_resampling_kappa_is_that_of_all_pairs(rng, conditions):
    seen = random_observers(rng, 6, 120, conditions)
    found = mean_kappa(seen[:2], seen[2:], np.ones((1, 120)))
    assert found == pytest.approx([np.mean([agreement_with(one, seen[2:]).kappa for one in seen[:2]])], abs=1e-12)


def test_a_resample_is_the_images_that_it_draws(rng):
    one, other = random_observers(rng, 2, 40)
    (drawn,) = draw_images(one.conditions, 30, rng)
    rows = [np.repeat(np.arange(40), times.astype(int)) for times in drawn]
    expected = [error_consistency(one.correct[chosen], other.correct[chosen]) for chosen in rows]
    np.testing.assert_allclose(mean_kappa([one], [other], drawn), expected, atol=1e-12)
    assert len({tuple(times) for times in drawn}) == 30


def test_every_resample_has_as_many_images_of_each_condition(rng):
    blocks = list(draw_images(tuple("aaabbbbb"), BLOCK + 7, rng))
    assert [block.shape for block in blocks] == [(BLOCK, 8), (7, 8)]
    drawn = np.concatenate(blocks)
    assert (drawn[:, :3].sum(axis=1) == 3).all()
    assert (drawn[:, 3:].sum(axis=1) == 5).all()
    assert drawn.mean(axis=0) == pytest.approx(1, abs=0.2)


def test_resampled_shape_bias_pools_all_answers(rng):
    images = ("cat1-dog2.png", "cat2-dog1.png", "dog1-cat3.png", "bear1-cat1.png", "cat3-cat1.png")
    seeds = [observer(numbers(*said), images=images) for said in (["cat", "dog", "oven", "bear", "cat"], ["dog"] * 5)]
    (drawn,) = draw_images(seeds[0].conditions, 50, rng)
    for times, found in zip(drawn.astype(int), pooled_shape_bias(seeds, drawn), strict=True):
        rows = np.repeat(np.arange(5), times)
        parts = [shape_bias([images[row] for row in rows], one.answers[rows]) for one in seeds]
        both = parts[0] + parts[1]
        assert found == pytest.approx(both.bias, nan_ok=True) if both.bias is not None else np.isnan(found)


# Comparison


def test_a_person_who_answers_as_the_model_does_has_kappa_1(rng):
    people = random_observers(rng, 3, 200)
    record = compare({"head": [replace(people[1], name="head")]}, people, "edge", 50, rng)
    assert record["head"]["with"]["subject-02"] == {"consistency": 1.0, "kappa": 1.0}
    of_others = [error_consistency(people[1].correct, people[row].correct) for row in (0, 2)]
    assert record["head"]["kappa"]["value"] == pytest.approx((1 + sum(of_others)) / 3, abs=1e-6)
    assert record["head"]["accuracy"] == pytest.approx(100 * people[1].correct.mean(), abs=1e-6)
    assert record["people"]["kappa"]["value"] == pytest.approx(agreement_among(people).kappa, abs=1e-6)
    assert record["people"]["count"] == 3
    assert record["n"] == 200
    assert "gain" not in record
    assert "shape_bias" not in record["head"]


def test_the_interval_holds_the_value_and_narrows_with_more_images(rng):
    widths = []
    for trials in (100, 1600):
        people = random_observers(rng, 3, trials)
        kappa = compare({"head": people[:1]}, people[1:], "edge", 400, rng)["head"]["kappa"]
        assert kappa["low"] < kappa["value"] < kappa["high"]
        widths.append(kappa["high"] - kappa["low"])
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.3)


def test_fusion_like_people_and_a_probe_like_nobody_have_a_gain_above_0(rng):
    people = random_observers(rng, 4, 300)
    copied = np.where(rng.random(300) < 0.8, people[0].answers, people[1].answers)
    models = {"linear": random_observers(rng, 1, 300), "fusion": [observer(copied, people[0].truth)]}
    gain = compare(models, people, "edge", 300, rng)["gain"]["kappa"]
    assert gain["value"] > gain["low"] > 0.1


def test_models_that_answer_alike_have_no_gain_however_images_are_drawn(rng):
    seen = random_observers(rng, 4, 60)
    gain = compare({"linear": seen[:2], "fusion": seen[1::-1]}, seen[2:], "edge", 100, rng)["gain"]["kappa"]
    assert gain == pytest.approx({"value": 0, "low": 0, "high": 0}, abs=1e-9)


def test_neither_cue_answered_leaves_shape_bias_out(rng):
    images = ("cat1-dog2.png", "dog1-cat3.png")
    people = [observer(numbers("cat", said), numbers("cat", "dog"), images=images) for said in ("dog", "cat")]
    silent = observer(numbers("oven", "oven"), numbers("cat", "dog"), images=images)
    record = compare({"head": [silent]}, people, "cue-conflict", 20, rng)
    assert "shape_bias" not in record["head"]
    assert record["people"]["shape_bias"] == {"value": 0.75, "either": 1.0}


# The stage, on 1000 classes


def one_hot(categories, width):
    return np.eye(width)[categories]


def write_models(project, seeds):
    """A probe that reads the category from [CLS], and a fusion classifier that reads it from the mean patch.

    A class outside the 16 categories has the largest probability of all.
    """
    member = np.array([column for columns in MEMBERS.values() for column in columns])
    of_member = np.concatenate([np.full(len(columns), number) for number, columns in enumerate(MEMBERS.values())])
    sizes = FusionSizes("bmfl", CLS_WIDTH, WIDTH, VERTICES, 1000, 4, 1, 2, 8, 0.0, 0.0)
    for number in range(seeds):
        model = randomise(FusionClassifier(sizes, torch.arange(VERTICES)), number)
        model.scale_patches.set(torch.zeros(WIDTH), torch.ones(WIDTH))
        with torch.no_grad():
            model.classify.weight.zero_()
            for column, category in zip(member, of_member, strict=True):
                if category < WIDTH:
                    model.classify.weight[column, 2 * sizes.width + category] = 9.0
            model.classify.bias.zero_()[0] = 12.0
        weight, bias = np.zeros((1000, CLS_WIDTH + WIDTH), np.float32), np.zeros(1000, np.float32)
        readable = of_member < CLS_WIDTH
        weight[member[readable], of_member[readable]] = 9.0
        bias[0] = 12.0
        scale = np.ones(CLS_WIDTH + WIDTH, np.float32)
        save_seed(number, model, {"none": torch.zeros(1)}, Probe(0 * scale, scale, weight, bias, 1.0))
    write_json(paths.FUSION / "fusion.json", {"variant": "bmfl", "sizes": vars(sizes), "seeds": seeds})


IMAGES = tuple(
    f"{shape}{number}-{texture}{number + 1}.png"
    for number in range(3)
    for shape, texture in [("bear", "cat"), ("cat", "bird"), ("car", "boat"), ("boat", "boat"), ("bird", "car")]
)
TRUTH = tuple(image.split("-")[0][:-1] for image in IMAGES)
"""Bears, cats, cars, boats, birds: all among the first eight categories."""


@pytest.fixture
def world(project, rng, one_thread):
    """Tokens of 15 cue-conflict images, models whose answers are known, and people; gives answers and params."""
    linear, fusion = (np.where(rng.random(15) < 0.6, numbers(*TRUTH), rng.integers(8, size=15)) for _ in range(2))
    make_world(project, rng)
    write_images(paths.data_root() / SET, *(f"{name}/{image}" for name, image in zip(TRUTH, IMAGES, strict=True)))
    said = {"subject-00": linear, "subject-01": fusion, "subject-02": fusion}
    people = {name: [CATEGORIES[one] for one in answers] for name, answers in said.items()}
    write_answers(paths.data_root() / "answers", "cue-conflict", people, IMAGES, TRUTH)
    project.edit(
        **{
            f"sets.{SET}": {"role": "probe"},
            f"files.{SET}": {"format": "human_stimuli", "path": SET},
            f"humans.{SET}": {"experiment": "cue-conflict", "answers": "answers"},
        }
    )
    params = project.load()
    manifest = index_set(SET, params)
    write_manifest(manifest)
    place = [[Path(path).name for path in manifest.paths].index(image) for image in IMAGES]
    order = np.argsort(place)  # as the manifest has them
    write_stimuli_tokens(rng, manifest, one_hot(linear[order], CLS_WIDTH), one_hot(fusion[order], WIDTH))
    write_manifest(replace(read_manifest("train"), classes=WNIDS))
    write_models(project, seeds=2)
    synthesize(params, SET)
    map_categories(params)
    return params, {"linear": linear[order], "fusion": fusion[order]}, [IMAGES[row] for row in order]


def write_stimuli_tokens(rng, manifest, cls, mean_patch):
    """A token store of the stimuli, made as those of train are: noise in the patches leaves their mean as it is."""
    write_tokens("other", rng, len(manifest), np.zeros((4, 1, 1, WIDTH)))
    noise = rng.standard_normal((len(manifest), 1, GRID[0] * GRID[1], WIDTH))
    patches = mean_patch[:, None, None, :] + noise - noise.mean(axis=2, keepdims=True)
    attributes = json.loads((paths.tokens("train") / "zarr.json").read_text())["attributes"]
    attributes = {key: value for key, value in attributes.items() if key not in ("complete", "contents")}
    attributes["dataset"] = manifest.fingerprint
    arrays = {"cls": cls.astype(np.float32), "patches": patches.astype(np.float32)}
    write_store(paths.tokens(SET), arrays, attributes, 16)


def scores():
    return json.loads((paths.human_comparison(SET) / "scores.json").read_text())


def test_the_stage_finds_the_answers_that_the_models_were_made_to_give(world):
    params, said, images = world
    compare_humans(params, SET)
    with np.load(paths.human_comparison(SET) / "answers.npz", allow_pickle=False) as kept:
        assert decode_ids(kept["images"]) == images
        for name in ("linear", "fusion"):
            assert kept[name].shape == (2, 15)
            assert (kept[name] == said[name]).all()
        assert (kept["people"][0] == said["linear"]).all()
        assert kept["truth"].tolist() == numbers(*(image.split("-")[0][:-1] for image in images)).tolist()
        assert decode_ids(kept["people_names"]) == ["subject-00", "subject-01", "subject-02"]


def test_the_stage_scores_them_beside_people(world):
    params, said, images = world
    compare_humans(params, SET)
    record = scores()
    truth = numbers(*(image.split("-")[0][:-1] for image in images))
    right = {name: answers == truth for name, answers in said.items()}
    between = error_consistency(right["linear"], right["fusion"])
    assert record["linear"]["with"]["subject-00"]["kappa"] == 1.0
    assert record["linear"]["with"]["subject-01"]["kappa"] == pytest.approx(between, abs=1e-6)
    assert record["fusion"]["with"]["subject-01"]["kappa"] == 1.0
    for name in ("linear", "fusion"):
        assert record[name]["accuracy"] == pytest.approx(100 * right[name].mean(), abs=1e-6)
        assert record[name]["shape_bias"]["value"] == pytest.approx(shape_bias(images, said[name]).bias, abs=1e-6)
    pooled = reduce(add, [shape_bias(images, said[name]) for name in ("linear", "fusion", "fusion")])
    assert record["people"]["shape_bias"]["value"] == pytest.approx(pooled.bias, abs=1e-6)
    assert record["gain"]["kappa"]["value"] == pytest.approx((1 - between) / 3, abs=2e-6)
    assert 0 <= record["gain"]["kappa"]["low"] < record["gain"]["kappa"]["high"]
    assert {key: record[key] for key in ("applicable", "n", "categories", "experiment", "fmri")} == {
        "applicable": True,
        "n": 15,
        "categories": 16,
        "experiment": "cue-conflict",
        "fmri": "simulated",
    }
    assert _humans(params) == {SET: record}


def test_the_same_seed_gives_the_same_bytes(world):
    written = []
    for _ in range(2):
        compare_humans(world[0], SET)
        written.append([(paths.human_comparison(SET) / name).read_bytes() for name in ("scores.json", "answers.npz")])
    assert written[0] == written[1]


def test_it_is_called_simulated(world, capsys):
    compare_humans(world[0], SET)
    assert f"{SET}, simulated fMRI: cue-conflict, 15 images" in capsys.readouterr().err


def test_classes_of_too_few_categories_are_not_applicable(world, capsys):
    write_manifest(replace(read_manifest("train"), classes=("bear", "cat", "dog", "giraffe")))
    map_categories(world[0])
    compare_humans(world[0], SET)
    reason = "classes map onto 3 of 16 categories"
    assert scores() == {"applicable": False, "reason": reason}
    assert f"{SET}: not applicable, {reason}" in capsys.readouterr().err


def test_twelve_categories_are_enough_and_images_of_others_are_left_out(world):
    few = [index for name in CATEGORIES for index in MEMBERS[name] if name not in ("bear", "chair", "clock", "oven")]
    classes = tuple(wnid if index in few else f"other{index}" for index, wnid in enumerate(WNIDS))
    write_manifest(replace(read_manifest("train"), classes=classes))
    map_categories(world[0])
    compare_humans(world[0], SET)
    assert (scores()["categories"], scores()["n"]) == (12, 12)


def test_an_image_that_people_were_not_shown_is_refused(world):
    write_answers(paths.data_root() / "answers", "cue-conflict", {"subject-01": ["cat"]}, ["cat1-dog1.png"], ["cat"])
    with pytest.raises(UserError, match=r"subject-01 has no answer to bear"):
        compare_humans(world[0], SET)


def test_probe_images_are_predicted_and_never_scored(world):
    evaluate_stage(world[0], SET)
    assert paths.predicted_fmri(SET).is_dir()
    assert not list(paths.evaluation(SET).iterdir())


def test_without_answers_of_people_the_metrics_are_empty(project):
    assert _humans(project.load()) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"sets.{SET}.role": "ood"}, rf"humans\.{SET}: wants a set {SET} of role probe"),
        ({f"files.{SET}.format": "folders"}, rf"humans\.{SET}: wants .* in files, format human_stimuli"),
        ({f"humans.{SET}.answers": "../answers"}, rf"humans\.{SET}\.answers: \.\./answers leaves NEURALOOD_DATA"),
        ({f"humans.{SET}.answers": "gone"}, rf"humans\.{SET}\.answers: .*gone does not exist"),
        ({f"humans.{SET}.experiment": "cue_conflict"}, rf"humans\.{SET}\.experiment: .*'cue-conflict'"),
        ({f"humans.{SET}.answers": DELETE}, rf"humans\.{SET}\.answers: missing key"),
    ],
)
def test_answers_that_do_not_go_with_their_set_are_refused(project, changes, message):
    for name in (SET, "answers"):
        (paths.data_root() / name).mkdir(parents=True)
    entry = {
        f"sets.{SET}": {"role": "probe"},
        f"files.{SET}": {"format": "human_stimuli", "path": SET},
        f"humans.{SET}": {"experiment": "cue-conflict", "answers": "answers"},
    }
    project.edit(**entry)
    project.load()
    project.edit(**changes)
    with pytest.raises(UserError, match=message):
        project.load()


# Heads of timm models


class Colours(nn.Module):
    """1000 classes: a red image is a cat (282), a green one a dog (207), any other a tench, which is neither."""

    def __init__(self, classes=1000):
        super().__init__()
        self.num_classes = classes

    def forward(self, images):
        logits = torch.zeros(len(images), self.num_classes)
        red, green, _ = images.mean(dim=(2, 3)).T
        logits[:, 0] = 3.0
        logits[:, 282], logits[:, 207] = 20 * red, 4000 * green
        return logits


@pytest.fixture
def head(project, monkeypatch):
    """Two images of each colour, two people, and the call of `neuralood compare-head` on them."""
    monkeypatch.setattr(
        heads,
        "load_classifier",
        lambda *_, **options: (Colours(), Preprocessing(options["image_size"], 0.5, "bicubic", (0.0,) * 3, (1.0,) * 3)),
    )
    project.edit(**{"evaluation.bootstrap": 20, "runtime.progress": False, "runtime.threads": 1})
    images, truth = ("cat1.png", "cat2.png", "dog1.png", "dog2.png"), ("cat", "cat", "dog", "dog")
    for name, colour in zip(images, ((255, 0, 0), (0, 255, 0), (0, 255, 0), (0, 255, 0)), strict=True):
        (Path("edges") / name[:3]).mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (224, 224), colour)
        picture.paste((0, 0, 0), (40, 40, 184, 184))  # more than a crop to a half would leave
        picture.save(Path("edges") / name[:3] / name)
    people = {"subject-01": ("cat", "dog", "dog", "dog"), "subject-02": ("cat", "cat", "dog", "na")}
    write_answers(Path("people"), "edge-experiment", people, images, truth)

    def call(*arguments):
        given = list(arguments) or ["colours", "hub", "edge", "edges", "people", "out/head.json"]
        monkeypatch.setattr("sys.argv", ["neuralood", "compare-head", *given])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code

    return call


def test_a_head_is_compared_with_people_from_the_command_line(head, capsys):
    assert head() == 0
    record = json.loads(Path("out/head.json").read_text())
    assert record["model"] == "colours"
    assert record["head"]["accuracy"] == 75.0  # the green cat is a dog
    assert record["head"]["with"]["subject-01"]["kappa"] == 1.0
    assert record["head"]["with"]["subject-02"]["consistency"] == 0.5
    said = capsys.readouterr().err
    assert "colours: edge, 4 images" in said
    assert "75.0" in said


def test_a_head_of_other_classes_is_refused(head, monkeypatch, capsys):
    monkeypatch.setattr(heads, "load_classifier", lambda *_, **__: (Colours(21_843), None))
    assert head() == 1
    assert "colours has 21843 classes, not ImageNet's 1000" in capsys.readouterr().err


def test_an_unknown_experiment_is_refused(head, capsys):
    assert head("colours", "hub", "edges", "edges", "people", "out.json") == 1
    assert "no experiment edges: there are colour, contrast" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize(
    ("experiment", "folder", "accuracy"),
    [
        ("cue-conflict", "cue-conflict", (10, 50)),
        ("edge", "edges", (20, 80)),
        ("silhouette", "filled-silhouettes", (20, 80)),
    ],
)
def test_an_imagenet_cnn_lies_where_imagenet_cnns_lie(real, project, experiment, folder, accuracy):
    project.edit(**{"evaluation.bootstrap": 500, "runtime.progress": False})
    weights = real / "weights" / "tf_efficientnet_lite0.in1k.safetensors"
    stimuli, answers, out = real / "shape_stimuli" / folder, real / "shape_stimuli/human_responses", Path("head.json")
    heads.compare_head("tf_efficientnet_lite0", str(weights), experiment, stimuli, answers, out, project.load())
    record = json.loads(out.read_text())
    assert accuracy[0] < record["head"]["accuracy"] < accuracy[1]
    assert 0 < record["head"]["kappa"]["value"] < record["people"]["kappa"]["value"]
    assert len(record["head"]["with"]) == record["people"]["count"] == 10
    if experiment == "cue-conflict":
        assert 0.1 < record["head"]["shape_bias"]["value"] < 0.45
        assert record["people"]["shape_bias"]["value"] > 0.9
