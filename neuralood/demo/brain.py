"""A simulated subject looks at the scenes: fMRI with a known noise ceiling, in the Algonauts 2023 layout.

Nothing here is a brain. Early vertices measure local contrast in the picture; high-level vertices read the
renderer's own noise-free shape (or its texture, or nothing at all), which `BrainSettings.high_rois` decides.
ROI names are labels only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from neuralood.base.records import write_text, write_whole
from neuralood.base.seeding import generator
from neuralood.data.rois import ROI_FAMILIES
from neuralood.demo.features import (
    CELLS,
    FILTERS,
    ORIENTATIONS,
    WAVELENGTHS_PX,
    contrast_energy,
    shape_features,
    texture_features,
    to_luminance,
)
from neuralood.demo.scenes import Scene

Floats = NDArray[np.float32]

HEMISPHERES = ("lh", "rh")
REST = ""  # the name of no ROI

UPPER, LOWER, WHOLE = (0.0, 0.5), (0.5, 1.0), (0.0, 1.0)  # parts of the visual field: image y, 0 on top
FIELD_WIDTH = {"lh": (0.5, 1.0), "rh": (0.0, 0.5)}  # image x: each hemisphere sees the other side
FIELD_MARGIN = 0.1  # receptive fields centre no nearer to the image's border


@dataclass(frozen=True)
class Sight:
    """How the vertices of an ROI see: sd of their receptive fields (of the image's side), and image y."""

    radius: float
    height: tuple[float, float]


EARLY_ROIS = {
    "V1v": Sight(0.075, UPPER),
    "V1d": Sight(0.075, LOWER),
    "V2v": Sight(0.11, UPPER),
    "V2d": Sight(0.11, LOWER),
    "V3v": Sight(0.16, UPPER),
    "V3d": Sight(0.16, LOWER),
    "hV4": Sight(0.24, WHOLE),
}
REST_SIGHT = Sight(0.16, WHOLE)
HIGH_ROIS = ("EBA", "FFA-1", "PPA", "VWFA-1")
SIMULATED_NOTE = "These fMRI are simulated from rendered pictures, no brain was measured: ROI names are labels only.\n"


@dataclass(frozen=True)
class BrainSettings:
    """What the subject's brain is made of; vertex counts are per hemisphere."""

    high_rois: Literal["shape", "texture", "noise"]
    reliability: tuple[float, float]  # lowest and highest share of signal in a single trial's variance
    repeats: int  # trials of each image, averaged
    early_vertices: int  # in each early ROI
    high_vertices: int  # in each high-level ROI
    rest_vertices: int  # in no ROI


@dataclass(frozen=True)
class SimulatedFmri:
    """What the scanner gives for B images, with the truth behind it.

    One V axis: lh then rh, within a hemisphere by ROI as in EARLY_ROIS and HIGH_ROIS, then the rest.
    """

    fmri: Floats  # B V, the average of the repeats
    signal: Floats  # B V, noise-free, mean 0 and sd 1 per vertex
    scale: Floats  # 2 V, mean and sd that `signal` had before
    ceiling: Floats  # V, the largest correlation that a prediction can reach
    reliability: Floats  # V, share of signal in a single trial's variance
    receptive_fields: Floats  # V 2, centre x and y in 0..1 of the image, NaN for vertices without one
    hemi: NDArray[np.int64]  # V, 0 lh, 1 rh
    roi: NDArray[np.str_]  # V, an Algonauts name, "" in no ROI


def simulate(scenes: Sequence[Scene], images: NDArray[np.uint8], settings: BrainSettings, seed: int) -> SimulatedFmri:
    """The fMRI of the subject `seed` looking at the `scenes`, drawn as `images` B H W 3."""
    roi, hemi, is_early = _anatomy(settings)
    fields = np.full((len(roi), 2), np.nan, dtype=np.float32)
    signal = np.empty((len(scenes), len(roi)), dtype=np.float32)
    fields[is_early], signal[:, is_early] = _early_signal(images, roi[is_early], hemi[is_early], seed)
    signal[:, ~is_early] = _high_signal(scenes, settings.high_rois, int(np.sum(~is_early)), seed)
    scale = _scale(signal)
    signal = _scaled(signal, scale)

    rng = generator(seed, "brain", "reliability")
    reliability = rng.uniform(*settings.reliability, len(roi)).astype(np.float32)
    fmri = _measured(signal, reliability, settings.repeats, generator(seed, "brain", "trials"))
    ceiling = noise_ceiling(reliability, settings.repeats)
    return SimulatedFmri(fmri, signal, scale, ceiling, reliability, fields, hemi, roi)


def simulate_restyled(
    images: NDArray[np.uint8], signal: Floats, scale: Floats, reliability: Floats, settings: BrainSettings, seed: int
) -> tuple[Floats, Floats]:
    """The same subject looks at `images` B H W 3, scenes in other styles: fMRI B V, and its noise-free part B V.

    `signal` B V is what the photos of these scenes evoked; it, `scale` and `reliability` are those of SimulatedFmri.
    Early vertices measure the contrast in the restyled picture, in the units of the photos: a brain does not
    standardise anew by style. High-level vertices know the scene, so that they answer as they did to its photo,
    stimulus-locked noise among it. The noise of the trials is drawn anew.
    """
    roi, hemi, is_early = _anatomy(settings)
    restyled = signal.copy()
    _, contrast = _early_signal(images, roi[is_early], hemi[is_early], seed)
    restyled[:, is_early] = _scaled(contrast, scale[:, is_early])
    rng = generator(seed, "brain", "trials", "restyled")
    return _measured(restyled, reliability, settings.repeats, rng), restyled


def early_fields(settings: BrainSettings, seed: int) -> dict[str, Floats]:
    """Receptive field centres of the vertices of each early ROI of the subject `seed`, such as lh.V1v: V 2, x and y."""
    roi, hemi, is_early = _anatomy(settings)
    roi, hemi = roi[is_early], hemi[is_early]
    centres, _ = _receptive_fields(roi, hemi, generator(seed, "brain", "receptive fields"))
    return {
        f"{name}.{early}": centres[(hemi == side) & (roi == early)]
        for early in EARLY_ROIS
        for side, name in enumerate(HEMISPHERES)
    }


def field_part(roi: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """The part of the visual field that an early ROI, such as lh.V1v, sees: its ends in x and in y, 0..1."""
    side, early = roi.split(".", 1)
    return FIELD_WIDTH[side], EARLY_ROIS[early].height


def noise_ceiling(reliability: Floats, repeats: int) -> Floats:
    """The correlation of the average of `repeats` trials with the noise-free signal, V."""
    ceiling: Floats = np.sqrt(repeats * reliability / (1 + (repeats - 1) * reliability))
    return ceiling


def reliability_of(signal: Floats, reliability: Floats) -> Floats:
    """Share of `signal`, B V, in a single trial's variance, V, where a signal of variance 1 has `reliability`."""
    explained = reliability * signal.var(axis=0)
    share: Floats = explained / (explained + 1 - reliability)
    return share


def write_algonauts(folder: Path, simulated: SimulatedFmri) -> None:
    """Write the training fMRI, ROI masks and noise ceilings of one subject below `folder`.

    Each file is written whole or not at all. There are no fsaverage-space masks: simulated vertices have no
    place on a real cortex. What only a simulation can know goes to `simulation/`.
    """
    for hemisphere, name in enumerate(HEMISPHERES):
        own = simulated.hemi == hemisphere
        _save(folder / f"training_split/training_fmri/{name}_training_fmri.npy", simulated.fmri[:, own])
        _save(folder / f"test_split/noise_ceiling/{name}_noise_ceiling.npy", simulated.ceiling[own] ** 2)
        for family in ROI_FAMILIES:
            labels = _labels(family, simulated.roi[own])
            _save(folder / f"roi_masks/{name}.{family}_challenge_space.npy", labels)
    for family in ROI_FAMILIES:
        names = dict(enumerate(_label_names(family)))
        _save(folder / f"roi_masks/mapping_{family}.npy", np.array(names, dtype=object))
    _save(folder / "simulation/receptive_fields.npy", simulated.receptive_fields)
    _save(folder / "simulation/reliability.npy", simulated.reliability)
    _save(folder / "simulation/signal.npy", simulated.signal)
    _save(folder / "simulation/scale.npy", simulated.scale)
    write_text(folder / "SIMULATED.txt", SIMULATED_NOTE)


def _anatomy(settings: BrainSettings) -> tuple[NDArray[np.str_], NDArray[np.int64], NDArray[np.bool_]]:
    """Per vertex: the name of its ROI, its hemisphere, and whether it sees the picture as early ROIs do."""
    early_rest = settings.rest_vertices // 2
    blocks = [(roi, settings.early_vertices, True) for roi in EARLY_ROIS]
    blocks += [(roi, settings.high_vertices, False) for roi in HIGH_ROIS]
    blocks += [(REST, early_rest, True), (REST, settings.rest_vertices - early_rest, False)]

    names, counts, early = zip(*blocks, strict=True)
    roi = np.tile(np.repeat(np.array(names), counts), 2)
    hemi = np.repeat(np.arange(2), sum(counts))
    return roi, hemi, np.tile(np.repeat(np.array(early), counts), 2)


def _early_signal(
    images: NDArray[np.uint8], roi: NDArray[np.str_], hemi: NDArray[np.int64], seed: int
) -> tuple[Floats, Floats]:
    """Receptive field centres, V 2, and the contrast that each vertex finds there, B V."""
    centres, pooling = _receptive_fields(roi, hemi, generator(seed, "brain", "receptive fields"))
    tuning = _tuning(len(roi), generator(seed, "brain", "tuning"))
    energy = contrast_energy(to_luminance(images)).reshape(len(images), FILTERS * CELLS**2)
    readout = (tuning[:, :, None] * pooling[:, None, :]).reshape(len(roi), FILTERS * CELLS**2)
    return centres, energy @ readout.T


def _receptive_fields(
    roi: NDArray[np.str_], hemi: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Centres, V 2, and Gaussian weights over the cells, V CELLS*CELLS, cut at the field's border."""
    sights = [EARLY_ROIS.get(name, REST_SIGHT) for name in roi]
    radius = np.array([sight.radius for sight in sights])[:, None]
    width = np.array([FIELD_WIDTH[HEMISPHERES[side]] for side in hemi]).reshape(-1, 2)
    height = np.array([sight.height for sight in sights]).reshape(-1, 2)
    x = rng.uniform(*np.clip(width, FIELD_MARGIN, 1 - FIELD_MARGIN).T)
    y = rng.uniform(*np.clip(height, FIELD_MARGIN, 1 - FIELD_MARGIN).T)

    cell = (np.arange(CELLS) + 0.5) / CELLS
    across = np.exp(-0.5 * ((cell - x[:, None]) / radius) ** 2) * _within(cell, width)
    down = np.exp(-0.5 * ((cell - y[:, None]) / radius) ** 2) * _within(cell, height)
    weights = (down[:, :, None] * across[:, None, :]).reshape(len(roi), CELLS**2)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.stack([x, y], axis=1).astype(np.float32), weights.astype(np.float32)


def _within(cell: NDArray[np.float64], bounds: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (cell > bounds[:, :1]) & (cell < bounds[:, 1:])


def _tuning(vertices: int, rng: np.random.Generator) -> Floats:
    """How much each vertex listens to each filter, V K: a preferred orientation and scale, softly."""
    orientation = rng.uniform(0, np.pi, (vertices, 1))
    scale = rng.uniform(0, len(WAVELENGTHS_PX) - 1, (vertices, 1))
    by_orientation = np.exp(np.cos(2 * (ORIENTATIONS - orientation)))
    by_scale = np.exp(-0.5 * (np.arange(len(WAVELENGTHS_PX)) - scale) ** 2)
    tuning = (by_scale[:, :, None] * by_orientation[:, None, :]).reshape(vertices, FILTERS)
    shares: Floats = (tuning / tuning.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _high_signal(
    scenes: Sequence[Scene], high_rois: Literal["shape", "texture", "noise"], vertices: int, seed: int
) -> Floats:
    """What the high-level vertices know, B V: random rectified readouts of shape or texture, or chance."""
    if high_rois == "noise":
        rng = generator(seed, "brain", "stimulus-locked noise")
        return rng.standard_normal((len(scenes), vertices), dtype=np.float32)
    features = shape_features(scenes) if high_rois == "shape" else texture_features(scenes)
    rng = generator(seed, "brain", "readouts")
    weights = rng.standard_normal((features.shape[1], vertices), dtype=np.float32)
    threshold = rng.normal(0, 0.5, vertices).astype(np.float32)
    drive = features @ weights
    readout: Floats = np.maximum(_scaled(drive, _scale(drive)) - threshold, 0)
    return readout


def _scale(values: Floats) -> Floats:
    """Mean and sd over images per vertex, 2 V; the sd of a vertex that never changes is not quite 0."""
    mean = values.mean(axis=0)
    return np.stack([mean, np.maximum((values - mean).std(axis=0), np.float32(1e-6))])


def _scaled(values: Floats, scale: Floats) -> Floats:
    """In units of `scale`, B V: mean 0 and sd 1 over the images that it was taken from."""
    mean, sd = scale
    scaled: Floats = (values - mean) / sd
    return scaled


def _measured(signal: Floats, reliability: Floats, repeats: int, rng: np.random.Generator) -> Floats:
    """The average of noisy trials, B V; each trial has variance 1, `reliability` of it signal."""
    total = np.zeros_like(signal)
    for _ in range(repeats):
        noise = rng.standard_normal(signal.shape, dtype=np.float32)
        total += np.sqrt(reliability) * signal + np.sqrt(1 - reliability) * noise
    average: Floats = total / np.float32(repeats)
    return average


def _label_names(family: str) -> tuple[str, ...]:
    """What each label of an ROI family means, from label 0 on, spelt as Algonauts 2023 does."""
    return ("Unknown", *(name.removesuffix("-stream") for name in ROI_FAMILIES[family]))


def _labels(family: str, roi: NDArray[np.str_]) -> NDArray[np.int64]:
    """Each vertex's label in an ROI family, V; 0 where it belongs to none of the family."""
    names = _label_names(family)
    if family == "streams":
        early, ventral = names.index("early"), names.index("ventral")
        return np.select([np.isin(roi, HIGH_ROIS), roi != REST], [ventral, early], 0)
    return np.array([names.index(name) if name in names else 0 for name in roi], dtype=np.int64)


def _save(path: Path, array: NDArray[Any]) -> None:
    """Write one .npy file; only the name tables, as Algonauts ships them, hold pickles."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.save(file, array)

    write_whole(path, write)
