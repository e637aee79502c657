"""`neuralood plan`: bytes are exact, what is there counts, what is not known is said, the disk has the last word."""

import re
from collections import namedtuple
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import DELETE, ROOT
from PIL import Image

from neuralood import backbone as backbone_module
from neuralood.backbone import TokenShape, load_backbone
from neuralood.base import paths
from neuralood.base.errors import UserError
from neuralood.base.records import write_json
from neuralood.base.store import CONTENTS, open_store
from neuralood.base.writing import write_store
from neuralood.config import Cache, FurtherSubject, load_params
from neuralood.data.manifest import UNLABELLED, Manifest, write_manifest
from neuralood.data.rois import ROI_NAMES
from neuralood.demo import brain as demo_brain
from neuralood.plan import disk, tables, times
from neuralood.plan import probe as probing
from neuralood.plan import work as working
from neuralood.plan.forms import form_costs, kept_width
from neuralood.plan.probe import Brain, Speed, brain_of, decode_seconds, encoder_speed, forward_seconds, fusion_speed
from neuralood.plan.sizes import Images, SetSize, StoreSize, images_of, set_sizes, store_specs, vertex_count
from neuralood.plan.study import study_seconds, study_text, with_changes
from neuralood.plan.tables import show_plan
from neuralood.plan.times import ESTIMATE, MEASURED, RIDGE_FITS, stage_times
from neuralood.plan.words import bytes_text, duration_text, rate_text
from neuralood.plan.work import Work, seconds_side_by_side
from neuralood.study.arms import Arm
from neuralood.synthesis import fmri_spec
from neuralood.tokens import cache as caching
from neuralood.tokens.cache import cache_tokens

CPU = torch.device("cpu")
TINY = {"backbone.name": "test_vit", "backbone.weights": "hub", "backbone.image_size": 32, "backbone.layers": [-1]}
SHAPE = TokenShape(cls_width=64, layers=1, grid=(2, 2), width=64)
IMAGENET = 1_281_167
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(probing, "PROBE_S", 0.001)
    monkeypatch.setattr(probing, "MATRIX", 32)
    monkeypatch.setattr(probing, "HASHED_BYTES", 2**12)


@pytest.fixture
def params(project):
    """The demo's, with a tiny ViT of 2 x 2 patches of 64 features, whose weights are out of reach."""
    project.edit(**TINY, **{"cache.chunk": 4, "cache.batch_size": 2})
    return project.load()


@pytest.fixture
def backbone(params):
    return load_backbone(**{**asdict(params.backbone), "weights": None}, data_root=paths.data_root())


def list_images(rng, name="train", count=11, draw=False):
    """A set's manifest, and its images where they are drawn."""
    names = tuple(f"{'cat' if row % 2 else 'dog'}/{row:03d}é.png" for row in range(count))
    labels = tuple(UNLABELLED if name == "nsd" else row % 2 for row in range(count))
    manifest = Manifest(name, "project", f"data/images/{name}", False, ("cat", "dog"), names, labels, names, name)
    write_manifest(manifest)
    if draw:
        for file in manifest.image_files():
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(file)
    return manifest


def cache(manifest, backbone, params, **changes):
    return cache_tokens(manifest, params.backbone.name, backbone, replace(params.cache, **changes), CPU, 0)


def bytes_of_chunks(folder):
    return sum(file.stat().st_size for file in folder.rglob("c.*"))


def size_of(params, backbone, name="train", vertices=100):
    return next(one for one in set_sizes(params, backbone, vertices) if one.name == name)


def imagenet_bytes(width, **cache_settings):
    """Bytes of ImageNet-1k train at 224 px and 14-pixel patches, image ids of 30 bytes."""
    settings = {"dtype": "float16", "pool": 1, "autocast": "none", "compile": False, "batch_size": 256, "chunk": 256}
    layers = cache_settings.pop("layers", 1)
    cache_params = SimpleNamespace(cache=Cache(**(settings | cache_settings)))
    shape = SimpleNamespace(shape=TokenShape(width, layers, (16, 16), width))
    images = Images(IMAGENET, 1000, id_bytes=30)
    return sum(spec.nbytes for spec in store_specs(images, shape, cache_params).values())


CHUNKS = 5005  # of 256 images
ROWS = CHUNKS * 256  # the last chunk is filled up
LABELS = 4 * IMAGENET + 4 + 30 * IMAGENET + 4


@pytest.mark.parametrize(("width", "gigabytes"), [(384, 253), (768, 506), (1024, 674)])
def test_imagenet_takes_what_was_computed_by_hand(width, gigabytes):
    assert imagenet_bytes(width) == ROWS * 257 * width * 2 + 2 * 4 * CHUNKS + LABELS
    assert imagenet_bytes(width) / 1e9 == pytest.approx(gigabytes, rel=0.002)


def test_int8_tokens_take_half_and_a_scale_each():
    tokens, cls = 256 * (384 + 4), 384 * 2
    assert imagenet_bytes(384, dtype="int8") == ROWS * (tokens + cls) + 3 * 4 * CHUNKS + LABELS


def test_pooled_tokens_are_a_quarter():
    assert imagenet_bytes(384, pool=2) == ROWS * 65 * 384 * 2 + 2 * 4 * CHUNKS + LABELS


def test_each_layer_takes_its_patches():
    assert imagenet_bytes(384, layers=3) == ROWS * (3 * 256 + 1) * 384 * 2 + 2 * 4 * CHUNKS + LABELS


@pytest.mark.parametrize("changes", [{}, {"dtype": "int8"}, {"dtype": "float32", "pool": 2}, {"chunk": 100}], ids=str)
def test_planned_bytes_are_those_of_the_store_that_is_written(project, params, rng, changes):
    project.edit(**{f"cache.{key}": value for key, value in changes.items()})
    params = project.load()
    backbone = load_backbone(**{**asdict(params.backbone), "weights": None}, data_root=paths.data_root())
    manifest = list_images(rng, draw=True)
    planned = size_of(params, backbone).tokens
    assert planned.left == planned.nbytes
    assert planned.nbytes == bytes_of_chunks(cache(manifest, backbone, params))


@pytest.mark.parametrize("dtype", ["float16", "int8", "float32"])
def test_planned_bytes_of_predicted_fmri_are_those_of_its_store(project, params, backbone, rng, dtype):
    project.edit(**{"cache.dtype": dtype})
    list_images(rng)
    fmri = np.zeros((11, 100), np.float32 if dtype == "float32" else np.float16)
    write_store(paths.predicted_fmri("val"), {"fmri": fmri}, {}, chunk=4)
    planned = size_of(project.load(), backbone).fmri
    assert planned.nbytes == bytes_of_chunks(paths.predicted_fmri("val"))


def test_a_store_that_is_there_is_not_written_again(params, backbone, rng):
    cache(list_images(rng, draw=True), backbone, params)
    assert size_of(params, backbone).tokens.left == 0


def test_a_store_of_other_settings_or_images_is_written_again(project, params, backbone, rng):
    manifest = list_images(rng, draw=True)
    cache(manifest, backbone, params)
    for change in ({"cache.dtype": "float32"}, {"cache.chunk": 3}, {"backbone.crop_pct": 0.5}):
        project.edit(**change)
        changed = project.load()
        other = load_backbone(**{**asdict(changed.backbone), "weights": None}, data_root=paths.data_root())
        tokens = size_of(changed, other).tokens
        assert tokens.left == tokens.nbytes, change
        assert tokens.share_left == 1
    write_manifest(replace(manifest, fingerprint="other images"))
    assert size_of(params, backbone).tokens.left > 0


def interrupt(monkeypatch, manifest, backbone, params):
    """Leave a token store with its first chunk only."""
    write, written = caching._Chunk.write, []

    def first_only(chunk, images):
        if written:
            raise KeyboardInterrupt
        written.append(chunk)
        return write(chunk, images)

    monkeypatch.setattr(caching._Chunk, "write", first_only)
    with pytest.raises(KeyboardInterrupt):
        cache(manifest, backbone, params)
    return paths.partial(paths.tokens("train"))


def test_a_partly_written_store_counts_what_there_is(params, backbone, rng, monkeypatch):
    partial = interrupt(monkeypatch, list_images(rng, draw=True), backbone, params)
    tokens = size_of(params, backbone).tokens
    assert 0 < bytes_of_chunks(partial) < tokens.nbytes
    assert tokens.left == tokens.nbytes - bytes_of_chunks(partial)
    assert tokens.share_left == pytest.approx(2 / 3, abs=0.05)


def test_what_is_left_of_other_settings_gives_its_bytes_back_but_saves_no_time(
    project, params, backbone, rng, monkeypatch
):
    interrupt(monkeypatch, list_images(rng, draw=True), backbone, params)
    project.edit(**{"cache.autocast": "bfloat16"})
    tokens = size_of(project.load(), backbone).tokens
    assert tokens.left < tokens.nbytes
    assert tokens.share_left == 1


def test_predicted_fmri_is_there_only_if_made_by_this_encoder_from_these_tokens(params, backbone, rng):
    tokens = open_store(cache(list_images(rng, draw=True), backbone, params))
    write_json(paths.ENCODER / "encoder.json", {"fingerprint": "this"})
    made_of = {"dataset": "train", "tokens": tokens.attributes[CONTENTS]}
    made_of["form"] = {"store": "vertices", "rois": "all"}
    for encoder, there in (("this", True), ("another", False)):
        fmri = np.zeros((11, 100), np.float16)
        write_store(paths.predicted_fmri("train"), {"fmri": fmri}, {**made_of, "encoder": encoder}, chunk=4)
        assert (size_of(params, backbone).fmri.left == 0) == there


def test_predicted_fmri_in_another_form_is_made_again(project, params, backbone, rng):
    tokens = open_store(cache(list_images(rng, draw=True), backbone, params))
    write_json(paths.ENCODER / "encoder.json", {"fingerprint": "this"})
    made_of = {"dataset": "train", "tokens": tokens.attributes[CONTENTS], "encoder": "this"}
    made_of["form"] = {"store": "vertices", "rois": "all"}
    write_store(paths.predicted_fmri("train"), {"fmri": np.zeros((11, 100), np.float16)}, made_of, chunk=4)
    project.edit(**{"synthesis.store": "roi_tokens"})
    assert size_of(load_params(check_paths=False), backbone).fmri.left > 0


@pytest.mark.parametrize(
    ("store", "rois", "width"),
    [("vertices", "all", 1324), ("roi_tokens", "all", 2 * len(ROI_NAMES) * 128), ("none", "all", 0)],
)
def test_each_form_of_predicted_fmri_takes_its_bytes(project, backbone, store, rois, width):
    project.edit(**{"synthesis.store": store, "synthesis.rois": rois})
    params = load_params(check_paths=False)
    (train,) = [one for one in set_sizes(params, backbone, 1324) if one.name == "train"]
    assert kept_width(params, 1324) == width
    assert train.fmri.nbytes == (fmri_spec(train.images.count, width, params.cache).nbytes if width else 0)
    costs = form_costs(params, [10, 20], 1324, Speed(0.1, 0.05), torch.device("cpu"))
    assert [one.name for one in costs] == ["vertices", "roi_tokens", "none"]
    assert [one.name for one in costs if one.chosen] == [store]
    taken = next(one for one in costs if one.chosen)
    assert taken.width == width
    assert taken.nbytes == sum(fmri_spec(count, width, params.cache).nbytes for count in (10, 20) if width)
    assert costs[-1].seconds == 0.05


def test_images_are_counted_from_the_list_or_from_what_they_are_made_from(project, params, rng):
    project.edit(
        **{
            "made": {"drawing": {"source": "val", "transform": "line_drawing", "level": 1.0, "seed": 0}},
            "sets.drawing": {"role": "ood"},
            "files.train": {"format": "folders", "path": "photos"},
            "rendered.train": DELETE,
        }
    )
    params = load_params(check_paths=False)
    assert (images_of(params, "val").count, images_of(params, "val").classes) == (300, 10)
    assert images_of(params, "drawing").count == 300
    assert images_of(params, "train").count is None
    list_images(rng, "val", count=7)
    list_images(rng, "train", count=5)
    assert images_of(params, "drawing").count == images_of(params, "val").count == 7
    assert (images_of(params, "train").count, images_of(params, "train").classes) == (5, 2)


def test_predicted_fmri_is_for_labelled_sets_only(params, backbone):
    assert {one.name for one in set_sizes(params, backbone, 100) if one.fmri is None} == {"nsd", "nsd_restyled"}


def test_a_simulated_subject_has_the_vertices_that_will_be_simulated(params):
    drawn = demo_brain.BrainSettings("shape", (0.3, 0.6), 3, 46, 80, 20)
    assert vertex_count(params) == len(demo_brain._anatomy(drawn)[0])


def measured(project):
    """Params of a measured subject, without data."""
    files = {"subj01": {"format": "algonauts2023", "path": "subj01"}}
    project.edit(
        **{
            "fmri.source": "algonauts2023",
            "fmri.space": "fsaverage",
            "fmri.simulated": {},
            "fmri.files": files,
            "files": {"nsd": {"format": "algonauts2023", "path": "subj01"}},
            "rendered.nsd": DELETE,
            "rendered.nsd_restyled": DELETE,
            "sets.nsd_restyled": DELETE,
        }
    )
    return load_params(check_paths=False)


def store_measured(vertices=20, subject="subj01"):
    """A store of measured fMRI whose left half is V1v, and its right half EBA."""
    hemi = np.repeat(np.arange(2, dtype=np.int8), vertices // 2)
    arrays = {"fmri": np.zeros((30, vertices), np.float32), "split": np.zeros(30, np.int8), "hemi": hemi}
    arrays["roi"] = np.stack([hemi == 0, hemi == 1])
    attributes = {"kind": "measured fMRI", "source": "algonauts2023", "subject": subject, "space": "fsaverage"}
    attributes |= {"simulated": False, "roi_names": ["lh.V1v", "rh.EBA"], "dataset": "", "fmri": ""}
    attributes |= {"vertices_left_out": 0, "rois_left_out": []}
    write_store(paths.MEASURED, arrays, attributes, chunk=30)


def test_a_measured_subject_has_the_vertices_of_its_list_or_store(project):
    params = measured(project)
    assert vertex_count(params) is None
    write_json(paths.FMRI_MANIFEST, {"source": "algonauts2023", "subject": "subj02", "shapes": {"lh": [9, 3]}})
    assert vertex_count(params) is None
    shapes = {"lh": [9841, 19_004], "rh": [9841, 20_544]}
    write_json(paths.FMRI_MANIFEST, {"source": "algonauts2023", "subject": "subj01", "shapes": shapes})
    assert vertex_count(params) == 39_548
    store_measured(20)
    assert vertex_count(params) == 20


def test_the_subjects_own_rois_are_probed_where_they_are_at_hand(project):
    params = measured(project)
    assert brain_of(params.fusion.rois, 20).membership.shape[0] > 2
    store_measured(20)
    project.edit(**{"fusion.rois": "early"})
    brain = brain_of(load_params(check_paths=False).fusion.rois, 20)
    assert brain.membership.tolist() == [[True] * 10 + [False] * 10, [False] * 10 + [True] * 10]
    assert brain.chosen.tolist() == list(range(10))


def test_random_weights_need_no_net_and_give_the_same_shapes(params, monkeypatch):
    def unreachable(*_):
        raise AssertionError("weights were asked for")

    for function in ("_require_hub", "read_weights"):
        monkeypatch.setattr(backbone_module, function, unreachable)
    backbone = load_backbone(**{**asdict(params.backbone), "weights": None}, data_root=paths.data_root())
    assert backbone.shape == SHAPE


def test_a_backbone_that_cannot_be_made_is_said_in_one_line(project, params):
    project.edit(**{"backbone.image_size": 33})
    with pytest.raises(UserError, match=r"backbone\.image_size: 33 is no multiple of the patch size 16"):
        show_plan(project.load())


def test_a_pool_that_does_not_divide_the_grid_is_refused_even_where_images_are_not_listed(project, params):
    project.edit(**{"cache.pool": 3})
    with pytest.raises(UserError, match=r"cache\.pool: 3 does not divide the patch grid 2 x 2"):
        show_plan(project.load())


def test_decoding_is_timed_on_real_images_and_on_random_ones(params, backbone, rng):
    listed = list_images(rng, draw=True, count=1)
    assert decode_seconds(listed, backbone, CPU) > 0
    assert decode_seconds(None, backbone, CPU) > 0
    listed.image_file(0).write_bytes(b"no image")
    assert decode_seconds(listed, backbone, CPU) > 0


@pytest.mark.parametrize("size", ["auto", 3])
def test_the_forward_pass_is_timed(params, backbone, size):
    assert forward_seconds(backbone, replace(params.cache, batch_size=size, compile=True), CPU) > 0


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("variant", ["bmfl", "concat", "image_only", "brain_only", "attentive", "knn"])
def test_models_are_timed_in_every_variant(project, params, variant, dtype):
    project.edit(**{"fusion.variant": variant, "cache.dtype": dtype, "cache.pool": 2, "encoder.control": "shuffled"})
    params = project.load()
    brain = Brain(torch.ones(2, 40, dtype=torch.bool), torch.arange(30))
    for speed in (encoder_speed(params, SHAPE, brain, CPU), fusion_speed(params, SHAPE, brain, 3, CPU)):
        assert speed.step > 0
        assert speed.predict > 0


def test_an_ensemble_takes_as_many_times_as_long(project, monkeypatch):
    monkeypatch.setattr(probing, "_speed", lambda *_: probing.Speed(2.0, 0.5))
    brain = Brain(torch.ones(2, 40, dtype=torch.bool), torch.arange(30))
    project.edit(**{"encoder.ensemble": 3})
    assert encoder_speed(project.load(), SHAPE, brain, CPU) == probing.Speed(6.0, 1.5)


def test_threads_are_those_of_the_stages(project, params, monkeypatch):
    project.edit(**{"runtime.threads": 2, "runtime.training_threads": 1})
    seen, step_seconds, seconds = {}, probing._step_seconds, probing._seconds

    def step(*arguments):
        seen["step"] = torch.get_num_threads()
        return step_seconds(*arguments)

    def predict(work):
        seen["predict"] = torch.get_num_threads()
        return seconds(work)

    monkeypatch.setattr(probing, "_step_seconds", step)
    monkeypatch.setattr(probing, "_seconds", predict)
    encoder_speed(project.load(), SHAPE, Brain(torch.ones(2, 40, dtype=torch.bool), torch.arange(30)), CPU)
    assert seen == {"step": 1, "predict": 2}


@pytest.mark.parametrize(
    ("workers", "threads", "seconds"),
    [
        (0, 4, 12.0),  # one after the other
        (0, 0, 12.0),
        (1, 0, 10.0),  # an accelerator waits for one process
        (8, 0, 2.5),  # ... for four cores
        (8, 4, 4.5),  # four cores do both
        (8, 16, 4.5),
    ],
)
def test_decoding_and_computing_go_on_side_by_side(monkeypatch, workers, threads, seconds):
    monkeypatch.setattr(working.os, "cpu_count", lambda: 4)
    assert seconds_side_by_side(10.0, 2.0, workers, threads) == seconds


def planned_work(params, nbytes=1000, **changes):
    """1,000 images of nsd and 2,000 of train, nothing there, 40 vertices: a millisecond a step, half of it predicts."""
    sets = {
        "nsd": SetSize("nsd", "fmri", Images(1000, None, fingerprint="a"), StoreSize(nbytes, nbytes), None),
        "train": SetSize(
            "train", "train", Images(2000, 4, fingerprint="b"), StoreSize(nbytes, nbytes), StoreSize(100, 50, True)
        ),
        "val": SetSize("val", "val", Images(500, 4, fingerprint="c"), StoreSize(nbytes, 0), StoreSize(100, 100)),
    }
    params = replace(params, rendered={}, files={}, made={})
    speed = Speed(0.001, 0.0005)
    return Work(
        **{
            "params": params,
            "sets": sets,
            "caching": dict.fromkeys(sets, 0.01),
            "encoder": speed,
            "fusion": speed,
            "vertices": 40,
        }
        | changes
    )


def lines_of(work):
    return {line.stage.strip(): line for line in stage_times(work, SimpleNamespace(shape=SHAPE))}


def test_times_are_steps_times_batches_times_epochs_times_seeds(project, params):
    project.edit(**{"fusion.seeds": 3})
    lines = lines_of(planned_work(project.load()))
    assert lines["cache_tokens"].seconds == pytest.approx(3000 * 0.01)  # val is there
    assert lines["train_encoder"].seconds == pytest.approx(20 * (800 * 0.001 + 100 * 0.0005) + 100 * 0.0005)
    assert lines["synthesize"].seconds == pytest.approx((1000 + 500) * 0.0005)  # half of train is there
    assert lines["train_fusion"].seconds == pytest.approx(3 * 15 * (1800 * 0.001 + 200 * 0.0005))
    assert lines["evaluate"].seconds == pytest.approx(3 * 500 * 0.0005)
    assert not any(line.least for line in lines.values())


@pytest.mark.parametrize(("control", "fits"), [("shuffled", 2), ("untrained", 0), ("features", 1)])
def test_each_control_trains_as_often_as_it_does(project, params, control, fits):
    project.edit(**{"encoder.control": control})
    seconds = lines_of(planned_work(project.load()))["train_encoder"].seconds
    assert seconds == pytest.approx(fits * 20 * (800 * 0.001 + 100 * 0.0005) + 100 * 0.0005)


def test_an_arm_of_the_study_takes_what_it_runs_anew(project, params):
    project.edit(**{"study.seeds": 3})
    work, backbone = planned_work(project.load()), SimpleNamespace(shape=SHAPE)
    lines = lines_of(replace(work, params=with_changes(work.params, {"fusion.seeds": 3})))
    fusion = sum(lines[name].seconds for name in ("train_fusion", "its linear probe", "evaluate"))
    predicted = (2000 + 500) * 0.0005  # though half of train's is there

    def seconds(changes):
        return study_seconds(work, backbone, [Arm("one", "control", changes)])

    assert seconds({}) == pytest.approx(fusion)
    assert seconds({"fusion.rois": "early"}) == pytest.approx(fusion)
    fit = 20 * (800 * 0.001 + 100 * 0.0005)
    for control, fits in (("untrained", 0), ("features", 1), ("shuffled", 2)):
        wanted = fusion + fits * fit + 100 * 0.0005 + predicted
        assert seconds({"encoder.control": control}) == pytest.approx(wanted)
    few = 20 * (200 * 0.001 + 100 * 0.0005) + 100 * 0.0005
    assert seconds({"encoder.images": 200}) == pytest.approx(fusion + few + predicted)
    assert study_seconds(work, backbone, [Arm("one", "main", {})] * 4) == pytest.approx(4 * fusion)


def test_the_plan_counts_the_arms_of_the_study(params):
    text = study_text(planned_work(params), SimpleNamespace(shape=SHAPE))
    assert re.match(r"`neuralood study --quick`: 7 arms, about .+; `neuralood study`: \d\d arms, about ", text)


def test_how_long_a_study_takes_is_not_said_where_it_is_not_known(params):
    assert study_text(replace(planned_work(params), fusion=None), SimpleNamespace(shape=SHAPE)) is None


def test_several_layers_are_scored_by_banded_ridge_too(params):
    def lines(layers):
        backbone = SimpleNamespace(shape=replace(SHAPE, layers=layers))
        return {line.stage.strip(): line for line in stage_times(planned_work(params), backbone)}

    assert "fit_baselines: banded" not in lines(1)
    several, samples = lines(3), params.encoder.banded_samples
    components = min(params.encoder.ridge_components, 800, 3 * 256)
    fits = 2 * RIDGE_FITS / 5 * 800 * components * 40
    shares = several["fit_baselines: banded"].seconds / several["fit_baselines: ridge"].seconds
    assert shares == pytest.approx(samples * fits / (fits + 2 * 1000 * 800 * 3 * 256))


def test_scoring_out_of_distribution_predicts_each_image_and_a_photo_beside_it(params):
    work = planned_work(params)
    assert "score_encoder" not in lines_of(work)
    restyled = SetSize("restyled", "fmri_ood", Images(70, 6), StoreSize(9, 9), None)
    work = replace(work, sets={**work.sets, "restyled": restyled}, caching={**work.caching, "restyled": 0})
    assert lines_of(work)["score_encoder"].seconds == pytest.approx(70 * 2 * 0.0005)


def test_fmri_of_probe_images_is_predicted_and_nothing_evaluated(params):
    work = planned_work(params)
    probe = SetSize("probe", "probe", Images(60, 16), StoreSize(9, 9), StoreSize(9, 9))
    lines = lines_of(replace(work, sets={**work.sets, "probe": probe}, caching={**work.caching, "probe": 0}))
    assert lines["synthesize"].seconds == pytest.approx((1000 + 500 + 60) * 0.0005)
    assert lines["evaluate"].seconds == pytest.approx(500 * 0.0005)


def test_a_step_of_training_has_a_batch_of_each_subject(params):
    work = planned_work(params)
    more = {f"nsd_{name}": SetSize(name, "fmri_more", Images(90, None), StoreSize(9, 9), None) for name in "ab"}
    line = lines_of(replace(work, sets={**work.sets, **more}, caching={**work.caching, "a": 0, "b": 0}))[
        "train_encoder"
    ]
    assert line.seconds == pytest.approx(20 * (3 * 800 * 0.001 + 100 * 0.0005) + 100 * 0.0005)
    assert line.work == "800 images x 20 epochs x 3 subjects"


def test_measured_fmri_of_every_subject_takes_room(project, params):
    def size_of(params):
        images = {"nsd": ("fmri", 30), "seen": ("fmri_more", 50), "val": ("val", 70)}
        sets = [SetSize(name, role, Images(n, None), StoreSize(1, 1), None) for name, (role, n) in images.items()]
        return disk.measured_size(params, sets, 20)

    assert size_of(params) == StoreSize(4 * 20 * 30, 4 * 20 * 30)
    more = {"subj02": FurtherSubject("seen")}
    params = replace(params, encoder=replace(params.encoder, more_subjects=more))
    assert size_of(params) == StoreSize(4 * 20 * 80, 4 * 20 * 80)
    paths.more_measured("subj02").mkdir(parents=True)
    assert size_of(params) == StoreSize(4 * 20 * 80, 4 * 20 * 30)


def test_what_was_not_probed_is_labelled_estimate(params):
    basis = {stage: line.basis for stage, line in lines_of(planned_work(params)).items()}
    probed = {"cache_tokens", "train_encoder", "synthesize", "train_fusion", "evaluate"}
    assert {stage for stage, text in basis.items() if text.startswith(MEASURED)} == probed
    assert {text for stage, text in basis.items() if stage not in probed} == {ESTIMATE}
    assert basis["cache_tokens"] == "measured, random pictures where none are here"


def test_where_the_disk_takes_longer_its_time_is_taken_and_labelled(params, monkeypatch):
    monkeypatch.setattr(times, "_memory_bytes", lambda: 1e9)
    lines = lines_of(planned_work(params, nbytes=int(100e9)))
    assert lines["train_encoder"].seconds == pytest.approx(22 * 100 / 0.5)  # 20 epochs and 2 passes more
    assert lines["train_encoder"].basis == "estimate: disk at 500 MB/s"
    monkeypatch.setattr(times, "_memory_bytes", lambda: 1e12)  # read once, then in memory
    assert lines_of(planned_work(params, nbytes=int(100e9)))["train_encoder"].seconds == pytest.approx(100 / 0.5)


def test_nothing_is_known_of_brain_stages_without_vertices(params):
    lines = lines_of(planned_work(params, encoder=None, fusion=None, vertices=None))
    for stage in ("prepare_fmri", "train_encoder", "synthesize", "train_fusion", "evaluate"):
        assert lines[stage].seconds is None


def test_no_images_left_to_cache_take_no_time(params):
    work = planned_work(params, caching={})
    there = {name: replace(one, tokens=StoreSize(1000, 0)) for name, one in work.sets.items()}
    assert lines_of(replace(work, sets=there))["cache_tokens"].seconds == 0


def shown(capsys):
    return re.sub(r" +", " ", capsys.readouterr().err)


def test_the_plan_shows_sizes_times_and_the_disk_and_writes_nothing(params, backbone, rng, capsys, tmp_path):
    list_images(rng, draw=True)
    before = sorted(tmp_path.rglob("*"))
    assert show_plan(params)
    text = shown(capsys)
    assert "test_vit at 32 px, 1,324 vertices" in text
    nbytes = size_of(params, backbone, vertices=1324)
    sizes = f"{bytes_text(nbytes.tokens.nbytes)} {bytes_text(nbytes.fmri.nbytes)}"
    assert f" train train 11 1 x 4 x 64 float16 {sizes} " in text
    assert " nsd fmri 2,400 " in text
    for stage in ("render", "cache_tokens", "train_encoder", "synthesize", "train_fusion", "evaluate", "in all"):
        assert f"\n {stage} " in text
    assert re.search(r"stores need [\d.]+ MB more; the disk of data/ has [\d.]+ [GT]B free\n$", text)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_will_not_do_is_a_red_line_with_the_remedy(params, monkeypatch, capsys):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: Usage(100, 90, 10))
    printed, show = [], tables.console.print
    monkeypatch.setattr(tables.console, "print", lambda *what, **how: (printed.extend(what), show(*what, **how)))
    assert not show_plan(params)
    assert printed[-1].startswith("[bold red]stores need ")
    text = shown(capsys)
    assert "the disk of data/ has 10 B free: " in text
    assert "too few. Set cache.dtype int8 (half) or cache.pool 2 (a quarter), take fewer sets" in text


@pytest.mark.parametrize(("load", "busy"), [(2.1, True), (2.0, False)])
def test_a_busy_machine_is_said_to_be_busy(monkeypatch, capsys, load, busy):
    monkeypatch.setattr(tables.os, "getloadavg", lambda: (load, 0, 0))
    monkeypatch.setattr(tables.os, "cpu_count", lambda: 2)
    tables._warn_of_load()
    assert ("this machine is busy" in capsys.readouterr().err) == busy


def test_what_is_there_makes_the_disk_do(params, backbone, rng, monkeypatch):
    for name in params.sets:
        list_images(rng, name)
    sizes = [one for one in set_sizes(params, backbone, 1324) if one.name != "train"]
    free = sum(store.nbytes for one in sizes for store in one.stores)
    cache(list_images(rng, draw=True), backbone, params)
    needed = free + size_of(params, backbone, vertices=1324).fmri.nbytes
    for more, will_do in ((0, True), (-1, False)):
        monkeypatch.setattr(disk.shutil, "disk_usage", lambda _, more=more: Usage(0, 0, needed + more))
        assert tables._disk_will_do(set_sizes(params, backbone, 1324), ()) == will_do


def test_what_is_not_known_yet_is_a_question_mark_with_a_remedy(project, params, capsys):
    measured(project)
    project.edit(
        **{
            "files.train": {"format": "folders", "path": "photos"},
            "rendered.train": DELETE,
            "made": {"drawing": {"source": "train", "transform": "line_drawing", "level": 1.0, "seed": 0}},
            "sets.drawing": {"role": "ood"},
        }
    )
    assert show_plan(load_params(check_paths=False))
    text = shown(capsys)
    assert " train train ? 1 x 4 x 64 float16 ? ? ?" in text
    assert "test_vit at 32 px, ? vertices" in text
    assert re.search(
        r"images are not listed yet: run `dvc repro (index@nsd index@train|index@train index@nsd)`\n", text
    )
    assert "vertices are not known yet: run `dvc repro index_fmri@subj01`\n" in text
    assert "\n in all over " in text
    assert "stores need at least " in text


@pytest.mark.parametrize("profile", ["params.yaml", "profiles/photos.yaml", "profiles/paper.yaml"])
def test_shipped_params_can_be_planned_without_data(project, profile, capsys):
    project.file.write_text((ROOT / profile).read_text())
    project.edit(**TINY)
    show_plan(load_params(check_paths=False))
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0, "0 s"),
        (0.2, "< 1 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (12_000, "3 h 20 min"),
        (3599, "1 h"),
        (86_399, "1 d"),
        (200_000, "2 d 8 h"),
    ],
)
def test_durations_read_well(seconds, text):
    assert duration_text(seconds) == text


def test_sizes_and_rates_read_well():
    assert [bytes_text(size) for size in (0, 999, 12_345, 253e9, 2.5e12)] == [
        "0 B",
        "999 B",
        "12.3 kB",
        "253 GB",
        "2.50 TB",
    ]
    assert [rate_text(each) for each in (None, 0.0005, 0.4)] == ["", "2,000 images/s", "2.50 images/s"]
