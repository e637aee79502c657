"""params.yaml as frozen, typed sections; every problem in it is found before any work starts.

Every value lives in params.yaml: a default in code would be a parameter that DVC can neither show nor diff.
Only the options that an entry of `sets`, `files` or `made` may leave out have the value 'none of it' here.
"""

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from neuralood.base import paths
from neuralood.base.checking import Verify
from neuralood.base.errors import UserError
from neuralood.data.made.levels import LEVELS, level_problem
from neuralood.data.rois import LEFT_OUT, ROI_GROUPS, ROI_NAMES

STRICT = ConfigDict(strict=True, extra="forbid")

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]

Role = Literal["fmri", "fmri_ood", "fmri_more", "train", "val", "ood", "probe"]
FMRI_ROLES = ("fmri", "fmri_ood", "fmri_more")
"""Roles of images with measured fMRI, which have no labels."""
PREDICTED_ROLES: tuple[Role, ...] = ("train", "val", "ood", "probe")
"""Roles of images whose fMRI is predicted."""
Style = Literal["photo", "silhouette", "edges", "conflict", "noise", "lowpass", "contrast", "restyled"]
HighRois = Literal["shape", "texture", "noise"]
Control = Literal["none", "shuffled", "untrained", "features"]
Baseline = Literal["dinov2_probe", "knn", "attentive", "mlp", "probe_ensemble", "wise"]
BASELINES = get_args(Baseline)
"""Variants that read image tokens alone, never fMRI."""
Variant = Literal["bmfl", "concat", "image_only", "brain_only", Baseline]
SPACES = {
    "simulated": ("simulated",),
    "algonauts2023": ("fsaverage",),
    "nsd": ("fsaverage", "func1pt8mm"),
    "imported": ("simulated", "fsaverage", "func1pt8mm"),
}
"""Spaces that each source of fMRI has."""
FileFormat = Literal[
    "folders",
    "images",
    "algonauts2023",
    "nsd",
    "nsdsynthetic",
    "imagenet_folders",
    "imagenet_flat",
    "imagenet_parquet",
    "imagenet_shards",
    "imagenet_a",
    "imagenet_r",
    "imagenet_sketch",
    "imagenet_v2",
    "imagenet_c",
    "imagenet_stylized",
    "imagenet_cartoon",
    "imagenet_drawing",
    "imagenet_hard",
    "objectnet",
    "wnid_folders",
    "human_stimuli",
]
Experiment = Literal[
    "colour",
    "contrast",
    "high-pass",
    "low-pass",
    "phase-scrambling",
    "power-equalisation",
    "false-colour",
    "rotation",
    "eidolonI",
    "eidolonII",
    "eidolonIII",
    "uniform-noise",
    "sketch",
    "stylized",
    "edge",
    "silhouette",
    "cue-conflict",
]
"""Of Geirhos et al. (2021): see neuralood.humans.experiments."""
SPLIT_FORMATS = ("imagenet_parquet", "imagenet_shards")
"""Formats whose reader tells the files of train and val in one folder apart by their names."""
MEASURED_FORMATS = ("algonauts2023", "nsd")
"""Formats of images that a scanned person saw, and trains on; nsdsynthetic and images have no labels either."""
SUBJECT_FORMATS = ("nsd", "nsdsynthetic")
"""Formats whose folder holds several people's data."""


@dataclass(frozen=True, config=STRICT)
class ImageSet:
    """One entry of `sets`."""

    role: Role
    class_map: dict[str, list[int]] | None = None
    """Many-to-one classes: name of the set's class -> indices of training classes."""


@dataclass(frozen=True, config=STRICT)
class Part:
    """A seeded, class-stratified share of a folder, so that one folder can serve as two sets."""

    take: Literal["first", "rest"]
    fraction: Share


@dataclass(frozen=True, config=STRICT)
class FileSet:
    """One entry of `files`: images of the user's own below the data root."""

    format: FileFormat
    path: str
    part: Part | None = None
    exclude: tuple[str, ...] = ()
    subject: Name | None = None
    """Whose images they are: nsd and nsdsynthetic only."""
    labels: str | None = None
    """Labels of a flat ImageNet val, below the data root: Kaggle's CSV, or the folder of the devkit."""
    corruptions: tuple[str, ...] | None = None
    """ImageNet-C only: the corruptions to take; all 15 where left out."""
    severities: tuple[int, ...] | None = None
    """ImageNet-C only: the severities to take; all 5 where left out."""
    full_hash: bool = False
    """Whether the contents of all files enter the fingerprint, rather than those of a sample."""


@dataclass(frozen=True, config=STRICT)
class RenderedSet:
    """One entry of `rendered`: images that the demo draws."""

    scenes: Literal["nsd", "nsd_test", "train", "test"]
    """nsd_test: those of the n of nsd that fMRI holds out."""
    style: Style
    """restyled, of nsd_test only: every style but photo, as the set's classes."""
    n: Positive


@dataclass(frozen=True, config=STRICT)
class MadeSet:
    """One entry of `made`: the images of another labelled set, transformed."""

    source: Name
    transform: str
    level: PositiveFloat
    seed: Count


@dataclass(frozen=True, config=STRICT)
class DemoVertices:
    """Simulated vertices a hemisphere: in each early ROI, in each high-level ROI, in no ROI."""

    early: Positive
    high: Positive
    rest: Count


@dataclass(frozen=True, config=STRICT)
class Demo:
    """The simulated world."""

    confound: Annotated[float, Field(ge=0, le=1)]
    high_rois: HighRois
    reliability: tuple[Share, Share]
    repeats: Positive
    vertices: DemoVertices


@dataclass(frozen=True, config=STRICT)
class Backbone:
    """A frozen image encoder."""

    name: str
    weights: str
    image_size: Positive
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None
    layers: tuple[int | str, ...]
    features: Literal["tokens", "queries"]


@dataclass(frozen=True, config=STRICT)
class Cache:
    """How tokens are computed and stored."""

    dtype: Literal["float16", "float32", "int8"]
    pool: Positive
    autocast: Literal["none", "bfloat16", "float16"]
    compile: bool
    batch_size: Positive | Literal["auto"]
    chunk: Positive


@dataclass(frozen=True, config=STRICT)
class SimulatedFmri:
    """One entry of `fmri.simulated`: the rendered set that the simulated subject looks at."""

    scenes: Name


@dataclass(frozen=True, config=STRICT)
class FmriFiles:
    """One entry of `fmri.files`: a subject's folder (Algonauts 2023) or the top of NSD, below the data root."""

    format: Literal["algonauts2023", "nsd"]
    path: str


@dataclass(frozen=True, config=STRICT)
class ImportedEncoder:
    """One entry of `fmri.imported`: the folder of an encoder trained elsewhere, below the data root."""

    path: str


@dataclass(frozen=True, config=STRICT)
class Fmri:
    """Where fMRI comes from, and how its images are split."""

    source: Literal["simulated", "algonauts2023", "nsd", "imported"]
    subject: Name
    space: Literal["simulated", "fsaverage", "func1pt8mm"]
    ceiling_threshold: Annotated[float, Field(ge=0, lt=1)]
    validation: Share
    test: Share
    simulated: dict[Name, SimulatedFmri]
    files: dict[Name, FmriFiles]
    imported: dict[Name, ImportedEncoder]


@dataclass(frozen=True, config=STRICT)
class FurtherSubject:
    """One entry of `encoder.more_subjects`: another person, of the same source and space, to train on as well."""

    images: Name
    """What this subject saw: a set of role fmri_more."""
    path: str | None = None
    """As that of fmri.files; none for a simulated subject."""


@dataclass(frozen=True, config=STRICT)
class Factorised:
    """Training of the factorised baseline."""

    epochs: Positive
    lr: PositiveFloat
    weight_decay: NonNegative


@dataclass(frozen=True, config=STRICT)
class Encoder:
    """The brain encoder, its training and its baselines."""

    control: Control
    depth: Positive
    heads: Positive
    width: Positive
    dropout: Fraction
    positions: Literal["learned", "sine"]
    start: Literal["queries", "zeros"]
    images: Positive | None
    epochs: Positive
    batch_size: Positive
    shuffle_buffer: Positive
    lr: PositiveFloat
    warmup: Fraction
    weight_decay: NonNegative
    ensemble: Positive
    more_subjects: dict[Name, FurtherSubject]
    ridge_components: Positive
    banded_samples: Positive
    factorised: Factorised
    bootstrap: Positive
    control_features: Backbone


@dataclass(frozen=True, config=STRICT)
class Synthesis:
    """What is kept of predicted fMRI."""

    store: Literal["vertices", "roi_tokens", "none"]
    rois: str | tuple[str, ...]


@dataclass(frozen=True, config=STRICT)
class Fusion:
    """The fusion classifier, its linear probe, and their training."""

    variant: Variant
    rois: str | tuple[str, ...]
    pcc_weight: NonNegative
    vertex_order: Literal["roi", "native"]
    patch: Positive
    depth: Positive
    heads: Positive
    width: Positive
    dropout: Fraction
    token_dropout: Fraction
    label_smoothing: Fraction
    mixup: NonNegative
    epochs: Positive
    batch_size: Positive
    shuffle_buffer: Positive
    lr: PositiveFloat
    warmup: Fraction
    weight_decay: NonNegative
    ema: Fraction
    autocast: Literal["none", "bfloat16"]
    holdout: Share
    seeds: Positive
    probe_c: tuple[PositiveFloat, ...]


@dataclass(frozen=True, config=STRICT)
class Evaluation:
    """How results are summed up."""

    bootstrap: Positive
    ood_mean: tuple[Name, ...]


@dataclass(frozen=True, config=STRICT)
class HumanAnswers:
    """One entry of `humans`: what people answered to a set of stimuli."""

    experiment: Experiment
    answers: str
    """Folder of their CSV files, below the data root."""


@dataclass(frozen=True, config=STRICT)
class Geometry:
    """One entry of `geometry`: how different the images of a set are to people, below the data root."""

    dissimilarities: str
    """An .npz file."""
    array: str
    """Its array: people x images x images, or people x sessions x images x images."""


@dataclass(frozen=True, config=STRICT)
class Study:
    """What `neuralood study` repeats and varies; it changes no result of a stage."""

    seeds: Annotated[int, Field(ge=2)]
    pcc_weights: tuple[NonNegative, ...]
    images: tuple[Positive, ...]


@dataclass(frozen=True, config=STRICT)
class Runtime:
    """What may not change a result, and is tracked by no stage."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
    nproc: Positive
    """Processes of the stages that are split: see neuralood.launch."""
    arms: Positive
    """Of the study, that run at a time."""
    threads: Positive
    training_threads: Positive
    vertices_in_a_batch: Positive
    patches_in_a_block: Positive
    workers: Count
    verify: Verify
    checkpoint_minutes: PositiveFloat
    progress: bool


@dataclass(frozen=True, config=STRICT)
class Params:
    """The whole of params.yaml."""

    seed: Count
    sets: dict[Name, ImageSet]
    files: dict[Name, FileSet]
    rendered: dict[Name, RenderedSet]
    made: dict[Name, MadeSet]
    demo: Demo
    backbone: Backbone
    cache: Cache
    fmri: Fmri
    encoder: Encoder
    synthesis: Synthesis
    fusion: Fusion
    evaluation: Evaluation
    humans: dict[Name, HumanAnswers]
    geometry: dict[Name, Geometry]
    study: Study
    runtime: Runtime


def load_params(file: Path = paths.PARAMS, *, check_paths: bool = True) -> Params:
    """Read and check params.yaml; `check_paths` False lets data and weights be absent.

    Parsed as DVC parses it (YAML 1.2: `1e-3` is a number, `on` is text). Raises UserError that lists
    every problem at once: unknown or missing keys, wrong types, impossible or contradicting values,
    missing paths.
    """
    params = _typed(_read_yaml(file), file)
    problems = [*_set_problems(params), *_model_problems(params)]
    if check_paths:
        problems += _path_problems(params)
    if problems:
        raise _problem_report(file, problems)
    return params


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} is missing: run stages from the project's top folder") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold sections such as `seed:` and `backbone:`, got {content!r:.40}")
    return content


def _typed(content: dict[str, Any], file: Path) -> Params:
    try:
        text = json.dumps(content)
    except (TypeError, ValueError) as error:
        raise UserError(f"{file} holds a value that is no number, text, list or mapping: {error}") from None
    try:
        return TypeAdapter(Params).validate_json(text)
    except ValidationError as error:
        raise _problem_report(file, [_explain(problem) for problem in error.errors()]) from None


def _problem_report(file: Path, problems: list[str]) -> UserError:
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return UserError(f"{file} has {count}:\n" + "\n".join(f"  {problem}" for problem in problems))


def _explain(problem: Any) -> str:
    place = [str(part) for part in problem["loc"] if part not in ("[key]", "str", "int")]
    place = [part for part in place if not part.startswith("tuple[")]
    key = ".".join(place)
    if problem["type"] == "unexpected_keyword_argument":
        known = _keys_at(place[:-1])
        near = get_close_matches(place[-1], known, n=1)
        return f"{key}: unknown key" + (f", did you mean '{near[0]}'?" if near else "")
    if problem["type"] == "missing":
        return f"{key}: missing key"
    return f"{key}: {problem['msg']}, got {problem['input']!r}"


def _keys_at(place: list[str]) -> list[str]:
    """The keys that the section at `place` knows."""
    section: Any = Params
    for part in place:
        section = get_args(section)[1] if get_origin(section) is dict else get_type_hints(section)[part]
        if get_origin(section) is not dict and not is_dataclass(section):  # such as Part | None
            section = next((kind for kind in get_args(section) if is_dataclass(kind)), section)
    return [field.name for field in fields(section)] if is_dataclass(section) else []


def _set_problems(params: Params) -> list[str]:
    return [
        *_role_problems(params),
        *_source_problems(params),
        *_overlap_problems(params),
        *_fmri_problems(params),
        *_fmri_ood_problems(params),
        *_more_problems(params),
        *_geometry_problems(params),
        *_human_problems(params),
    ]


def _role_problems(params: Params) -> list[str]:
    problems = []
    others = ("ood", "probe", "fmri_ood", "fmri_more")
    wanted = {"nsd": "fmri", "train": "train", "val": "val"}
    if params.fmri.source == "imported":
        del wanted["nsd"]
    for name, role in wanted.items():
        if name not in params.sets:
            problems.append(f"sets.{name}: missing; the set named {name} has role {role}")
    for name, image_set in params.sets.items():
        expected = {"nsd": ("fmri",), "train": ("train",), "val": ("val",)}.get(name, others)
        if image_set.role not in expected:
            roles = " or ".join(expected)
            problems.append(f"sets.{name}.role: must be {roles} for a set named {name}, got {image_set.role}")
        if image_set.class_map is not None and image_set.role not in ("val", "ood"):
            problems.append(f"sets.{name}.class_map: only val and ood sets have one")
        for label, indices in (image_set.class_map or {}).items():
            if not indices or min(indices) < 0:
                problems.append(f"sets.{name}.class_map.{label}: wants at least one index, none below 0")
    for name in params.evaluation.ood_mean:
        if name not in params.sets or params.sets[name].role != "ood":
            problems.append(f"evaluation.ood_mean: {name} is no ood set of `sets`")
    if len(set(params.evaluation.ood_mean)) < len(params.evaluation.ood_mean):
        problems.append("evaluation.ood_mean: names a set twice")
    return problems


def _source_problems(params: Params) -> list[str]:
    problems = []
    sources: dict[str, dict[str, Any]] = {"files": params.files, "rendered": params.rendered, "made": params.made}
    for name in params.sets:
        found = [kind for kind, entries in sources.items() if name in entries]
        if len(found) != 1:
            has = " and ".join(found) or "none of them"
            problems.append(f"sets.{name}: wants exactly one entry in files, rendered or made, has {has}")
    for kind, entries in sources.items():
        problems += [f"{kind}.{name}: is not in `sets`" for name in entries if name not in params.sets]
    for name, made in params.made.items():
        if made.source not in params.files and made.source not in params.rendered:
            problems.append(f"made.{name}.source: {made.source} is no set of files or rendered")
        elif _role(params, made.source) in (*FMRI_ROLES, "probe"):
            problems.append(f"made.{name}.source: {made.source} has no labels")
        problems += _transform_problems(name, made)
    for name, rendered in params.rendered.items():
        problems += _rendered_problems(params, name, rendered)
    return problems + _format_problems(params)


def _role(params: Params, name: str) -> str | None:
    """The role of a set, None where `sets` lacks it."""
    return params.sets[name].role if name in params.sets else None


def _rendered_problems(params: Params, name: str, rendered: RenderedSet) -> Iterator[str]:
    fallback = {"fmri_ood": "nsd_test", "fmri_more": "nsd"}.get(_role(params, name) or "", "test")
    kind = {"nsd": "nsd", "train": "train"}.get(name, fallback)
    if rendered.scenes != kind:
        yield f"rendered.{name}.scenes: must be {kind} for this set, got {rendered.scenes}"
    if (rendered.style == "restyled") != (kind == "nsd_test"):
        yield f"rendered.{name}.style: restyled goes with scenes nsd_test, and with no other, got {rendered.style}"
    if kind == "nsd_test" and "nsd" in params.rendered and rendered.n != params.rendered["nsd"].n:
        yield f"rendered.{name}.n: must be that of rendered.nsd, {params.rendered['nsd'].n}, got {rendered.n}"


def _transform_problems(name: str, made: MadeSet) -> list[str]:
    if made.transform not in LEVELS:
        near = get_close_matches(made.transform, LEVELS, n=1)
        hint = f", did you mean '{near[0]}'?" if near else f"; there are {', '.join(LEVELS)}"
        return [f"made.{name}.transform: unknown transform '{made.transform}'{hint}"]
    problem = level_problem(made.transform, made.level)
    return [f"made.{name}.level: {problem}"] if problem else []


def _format_problems(params: Params) -> list[str]:
    """Options of an entry of `files` that its format does not know, or wants."""
    problems = []
    for name, files in params.files.items():
        if (files.format in MEASURED_FORMATS) != (name == "nsd" or _role(params, name) == "fmri_more"):
            problems.append(
                f"files.{name}.format: {' and '.join(MEASURED_FORMATS)} are for nsd, all others for labelled sets"
            )
        if files.format == "images" and _role(params, name) != "probe":
            problems.append(f"files.{name}.format: images have no labels; only a set of role probe can do without")
        for option, value, owners in (
            ("subject", files.subject, SUBJECT_FORMATS),
            ("labels", files.labels, ("imagenet_flat",)),
            ("corruptions", files.corruptions, ("imagenet_c",)),
            ("severities", files.severities, ("imagenet_c",)),
        ):
            if value is not None and files.format not in owners:
                problems.append(f"files.{name}.{option}: only format {' or '.join(owners)} has it, not {files.format}")
        seen_by_first = _role(params, name) != "fmri_more"
        if files.format in SUBJECT_FORMATS and seen_by_first and files.subject != params.fmri.subject:
            problems.append(f"files.{name}.subject: must be fmri.subject, {params.fmri.subject}, got {files.subject}")
        if files.format == "imagenet_flat" and files.labels is None:
            problems.append(f"files.{name}.labels: missing; a flat val has its labels in Kaggle's CSV or the devkit")
        for key, path in (("path", files.path), ("labels", files.labels or "")):
            if ".." in Path(path).parts:
                problems.append(f"files.{name}.{key}: {path} leaves {paths.DATA_ROOT_VARIABLE}; remove the '..'")
    return problems


def _overlap_problems(params: Params) -> list[str]:
    """Two sets may share a folder only as the first part and the rest of one and the same fraction."""
    problems = []
    entries = sorted(params.files.items())
    for index, (name, files) in enumerate(entries):
        for other, more in entries[index + 1 :]:
            splits = {name, other} == {"train", "val"} and files.format == more.format in SPLIT_FORMATS
            of_nsd = {files.format, more.format} <= set(SUBJECT_FORMATS)
            of_nsd &= (files.format, files.subject) != (more.format, more.subject)
            if Path(files.path) != Path(more.path) or splits or of_nsd:
                continue
            if not _complementary(files.part, more.part):
                problems.append(
                    f"files.{other}.path: is also files.{name}.path; give one `part: {{take: first, fraction: f}}` "
                    "and the other `part: {take: rest, fraction: f}` with the same f"
                )
            elif files.exclude != more.exclude:
                problems.append(f"files.{other}.exclude: must equal files.{name}.exclude, its other part")
    return problems


def _complementary(one: Part | None, other: Part | None) -> bool:
    return one is not None and other is not None and one.take != other.take and one.fraction == other.fraction


def _fmri_problems(params: Params) -> list[str]:
    fmri, problems = params.fmri, []
    subjects = [*fmri.simulated, *fmri.files, *fmri.imported]
    if subjects != [fmri.subject]:
        problems.append(
            "fmri.subject: wants exactly one entry of its name in fmri.simulated, fmri.files or fmri.imported, "
            f"got {fmri.subject} and entries {subjects}"
        )
    formats = ["simulated" for _ in fmri.simulated] + [files.format for files in fmri.files.values()]
    formats += ["imported" for _ in fmri.imported]
    if formats and fmri.source not in formats:
        problems.append(f"fmri.source: is {fmri.source}, but the entry given is {formats[0]}")
    spaces = SPACES[fmri.source]
    if fmri.space not in spaces:
        problems.append(
            f"fmri.space: {fmri.space} does not go with fmri.source {fmri.source}; {' or '.join(spaces)} does"
        )
    if "nsd" in params.files and fmri.source != params.files["nsd"].format:
        problems.append(f"files.nsd.format: is {params.files['nsd'].format}, but fmri.source is {fmri.source}")
    if fmri.source == "imported" and params.encoder.control != "none":
        problems.append(
            f"encoder.control: {params.encoder.control} trains an encoder here; an imported one keeps its own control"
        )
    for name, encoder in fmri.imported.items():
        if ".." in Path(encoder.path).parts:
            problems.append(f"fmri.imported.{name}.path: {encoder.path} leaves {paths.DATA_ROOT_VARIABLE}; no '..'")
    if fmri.imported and "nsd" in params.sets:
        problems.append("sets.nsd: an imported encoder was trained elsewhere; remove the set and its images")
    for subject, simulated in fmri.simulated.items():
        if simulated.scenes != "nsd" or "nsd" not in params.rendered:
            problems.append(f"fmri.simulated.{subject}.scenes: must be nsd, and nsd must be in rendered")
    if fmri.files and "nsd" in params.rendered:
        problems.append("rendered.nsd: is drawn, but fmri.files was measured on other images")
    if fmri.validation + fmri.test >= 1:
        problems.append("fmri.validation, fmri.test: leave nothing to train on")
    if params.demo.reliability[0] > params.demo.reliability[1]:
        problems.append(f"demo.reliability: wants low, high, got {list(params.demo.reliability)}")
    return problems


def _fmri_ood_problems(params: Params) -> Iterator[str]:
    """Sets of role fmri_ood that the person of the fMRI, simulated or not, never saw."""
    names = [name for name, image_set in params.sets.items() if image_set.role == "fmri_ood"]
    for name in names:
        if params.fmri.source == "imported":
            yield f"sets.{name}: an imported encoder comes without fMRI to be scored on; remove the set and its images"
        elif params.fmri.source == "simulated" and name not in params.rendered:
            yield f"sets.{name}: a simulated subject looks at rendered images only; give it an entry there"
        elif params.fmri.source != "simulated" and name not in params.files:
            yield f"sets.{name}: no scanned person saw these images; give it an entry in files, format nsdsynthetic"
    drawn = [name for name in names if name in params.rendered]
    for name in drawn[1:]:
        yield f"rendered.{name}: {drawn[0]} has every style already; one set will do"
    for name, files in params.files.items():
        if (files.format == "nsdsynthetic") != (name in names):
            yield f"files.{name}.format: nsdsynthetic and role fmri_ood go together, got {files.format}"


def _more_problems(params: Params) -> Iterator[str]:
    """Further subjects and their images, which must go together and be of the first subject's kind."""
    source, entries = params.fmri.source, params.encoder.more_subjects
    for name, entry in entries.items():
        key = f"encoder.more_subjects.{name}"
        if source == "imported":
            yield f"{key}: an imported encoder was trained elsewhere; remove the entry and its images"
            continue
        if name == params.fmri.subject:
            yield f"{key}: is fmri.subject itself; name another one"
        if _role(params, entry.images) != "fmri_more":
            yield f"{key}.images: {entry.images} is no set of role fmri_more"
        elif source == "simulated" and entry.images not in params.rendered:
            yield f"{key}.images: a simulated subject looks at rendered images only; give {entry.images} an entry there"
        elif source != "simulated":
            files = params.files.get(entry.images)
            if files is None or files.format != source:
                yield f"{key}.images: {entry.images} must be in files, with format {source} as fmri.source"
            elif files.format in SUBJECT_FORMATS and files.subject != name:
                yield f"files.{entry.images}.subject: must be {name}, who saw these images, got {files.subject}"
        if (entry.path is None) != (source == "simulated"):
            yield f"{key}.path: " + (
                "remove it, the fMRI is simulated" if entry.path else "missing; say where the fMRI is"
            )
        elif ".." in Path(entry.path or "").parts:
            yield f"{key}.path: {entry.path} leaves {paths.DATA_ROOT_VARIABLE}; remove the '..'"
    seen = [entry.images for entry in entries.values()]
    for name, image_set in params.sets.items():
        if image_set.role == "fmri_more" and seen.count(name) != 1:
            yield f"sets.{name}: exactly one entry of encoder.more_subjects has these images, not {seen.count(name)}"


def _geometry_problems(params: Params) -> Iterator[str]:
    for name, entry in params.geometry.items():
        if _role(params, name) not in PREDICTED_ROLES:
            yield f"geometry.{name}: {name} is no set whose fMRI is predicted; those have role probe, val, ood or train"
        if ".." in Path(entry.dissimilarities).parts:
            yield (
                f"geometry.{name}.dissimilarities: {entry.dissimilarities} leaves {paths.DATA_ROOT_VARIABLE}; "
                "remove the '..'"
            )


def _human_problems(params: Params) -> Iterator[str]:
    """People's answers to sets that are no stimuli of such an experiment."""
    for name, entry in params.humans.items():
        if _role(params, name) != "probe" or name not in params.files or params.files[name].format != "human_stimuli":
            yield f"humans.{name}: wants a set {name} of role probe, with an entry in files, format human_stimuli"
        if ".." in Path(entry.answers).parts:
            yield f"humans.{name}.answers: {entry.answers} leaves {paths.DATA_ROOT_VARIABLE}; remove the '..'"


def _model_problems(params: Params) -> list[str]:
    problems = []
    for section, part in (("encoder", params.encoder), ("fusion", params.fusion)):
        if part.width % part.heads:
            problems.append(f"{section}.heads: {part.heads} does not divide {section}.width {part.width}")
    for section, backbone in (
        ("backbone", params.backbone),
        ("encoder.control_features", params.encoder.control_features),
    ):
        if not backbone.layers:
            problems.append(f"{section}.layers: wants at least one layer")
        if Path(backbone.weights).is_absolute():
            problems.append(f"{section}.weights: wants a path relative to {paths.DATA_ROOT_VARIABLE}")
    problems += [*_roi_problems("fusion.rois", params.fusion.rois), *_kept_problems(params)]
    if not params.fusion.probe_c:
        problems.append("fusion.probe_c: wants at least one strength")
    return problems


def _names(rois: str | tuple[str, ...]) -> list[str]:
    return [rois] if isinstance(rois, str) else list(rois)


def _roi_problems(key: str, rois: str | tuple[str, ...]) -> Iterator[str]:
    known = ["all", *ROI_GROUPS, *ROI_NAMES]
    for name in (name.removeprefix(LEFT_OUT) for name in _names(rois)):
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f", did you mean '{near[0]}'?" if near else f"; groups are {', '.join(ROI_GROUPS)}"
            yield f"{key}: unknown ROI '{name}'{hint}"
    if all(name.startswith(LEFT_OUT) for name in _names(rois)):
        yield f"{key}: wants 'all', a group or a list of ROIs; [all, -faces] leaves the vertices of a group out"


def _kept_problems(params: Params) -> Iterator[str]:
    """Predicted fMRI that fusion wants and `synthesis` does not keep."""
    kept, read = params.synthesis.rois, params.fusion.rois
    yield from _roi_problems("synthesis.rois", kept)
    if any(name.startswith(LEFT_OUT) for name in _names(kept)):
        yield "synthesis.rois: names what is kept; only fusion.rois leaves some out"
    if params.synthesis.store != "vertices" and kept != "all":
        yield f"synthesis.rois: only store vertices leaves some out, {params.synthesis.store} has all"
    elif kept != "all":
        members = {member for name in _names(kept) for member in ROI_GROUPS.get(name, (name,))}
        wanted = [name for name in _names(read) if not name.startswith(LEFT_OUT)]
        lacking = [name for name in wanted if not members >= set(ROI_GROUPS.get(name, (name,)))]
        if lacking:
            yield f"fusion.rois: synthesis.rois keeps no, or not all, vertices of {', '.join(lacking)}"


def _path_problems(params: Params) -> list[str]:
    """Paths below the data root that are not there. What is indexed or cached already may be gone."""
    root, problems = paths.data_root(), []
    wanted = {
        f"files.{name}.path": files.path for name, files in params.files.items() if not paths.manifest(name).exists()
    }
    if not paths.FMRI_MANIFEST.exists():
        wanted |= {f"fmri.files.{name}.path": files.path for name, files in params.fmri.files.items()}
        wanted |= {f"fmri.imported.{name}.path": encoder.path for name, encoder in params.fmri.imported.items()}
    wanted |= {
        f"encoder.more_subjects.{name}.path": entry.path
        for name, entry in params.encoder.more_subjects.items()
        if entry.path is not None and not paths.more_measured(name).exists()
    }
    wanted |= {
        f"geometry.{name}.dissimilarities": entry.dissimilarities
        for name, entry in params.geometry.items()
        if not paths.geometry(name).exists()
    }
    wanted |= {
        f"humans.{name}.answers": entry.answers
        for name, entry in params.humans.items()
        if not paths.human_comparison(name).exists()
    }
    if not all(paths.tokens(name).exists() for name in params.sets):
        wanted |= {"backbone.weights": params.backbone.weights}
    if params.encoder.control == "features":
        wanted |= {"encoder.control_features.weights": params.encoder.control_features.weights}
    for key, path in wanted.items():
        if path == "hub" or path.startswith("package:"):
            continue
        if Path(path).is_absolute():
            problems.append(f"{key}: {path} is absolute; paths are relative to {paths.DATA_ROOT_VARIABLE}")
        elif not (root / path).exists():
            problems.append(f"{key}: {root / path} does not exist (set {paths.DATA_ROOT_VARIABLE} or mend the path)")
    return problems
