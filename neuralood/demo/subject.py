"""The demo's brain: a simulated subject looks at the rendered nsd images, and at some of their scenes restyled.

Further subjects look at scenes of their own.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from neuralood.base import console, paths
from neuralood.base.errors import UserError
from neuralood.base.records import write_json
from neuralood.base.seeding import derived_seed
from neuralood.base.store import Array
from neuralood.config import Params
from neuralood.data.arrays import read_npy
from neuralood.data.fmri import OodFmri, simulated_fmri
from neuralood.data.manifest import Manifest, read_manifest
from neuralood.demo.brain import (
    BrainSettings,
    SimulatedFmri,
    early_fields,
    noise_ceiling,
    reliability_of,
    simulate,
    simulate_restyled,
    write_algonauts,
)
from neuralood.demo.drawing import scenes_of


def simulate_subject(params: Params, subject: str) -> None:
    """fMRI of the simulated `subject` for the rendered nsd images: data/demo/fmri/ and its manifest."""
    simulated = _looking_at(params, "nsd", derived_seed(params.seed, "subject"))
    write_algonauts(paths.DEMO_FMRI, simulated)
    write_json(paths.FMRI_MANIFEST, simulated_fmri(params))
    console.wrote(
        paths.DEMO_FMRI,
        f"SIMULATED fMRI of {subject}, {len(simulated.fmri)} images x {simulated.fmri.shape[1]} vertices",
    )


def simulate_more(params: Params, subject: str, folder: Path) -> None:
    """fMRI of a further subject of `encoder.more_subjects`, who has a brain of its own, below `folder`."""
    seen = params.encoder.more_subjects[subject].images
    write_algonauts(folder, _looking_at(params, seen, derived_seed(params.seed, "subject", subject)))


def simulate_ood(params: Params, manifest: Manifest) -> OodFmri:
    """fMRI of the same subject for restyled scenes of nsd, with a ceiling for each style.

    Raises UserError where simulate_subject has not run.
    """
    rows = [int(source.removeprefix("nsd/")) for source in manifest.sources]
    signal, scale, reliability = (
        read_npy(paths.DEMO_FMRI / f"simulation/{name}.npy") for name in ("signal", "scale", "reliability")
    )
    seed = derived_seed(params.seed, "subject")
    fmri, restyled = simulate_restyled(_images(manifest), signal[rows], scale, reliability, _settings(params), seed)
    labels = np.array(manifest.labels)
    of_styles = [reliability_of(restyled[labels == label], reliability) for label in range(len(manifest.classes))]
    return OodFmri(fmri, np.stack([noise_ceiling(one, params.demo.repeats) for one in of_styles]))


def simulated_fields(params: Params) -> dict[str, Array]:
    """Receptive field centres of the subject's early ROIs, such as lh.V1v: V 2, x and y in 0..1 of the image."""
    return early_fields(_settings(params), derived_seed(params.seed, "subject"))


def _looking_at(params: Params, set_name: str, seed: int) -> SimulatedFmri:
    """The subject `seed` looks at the photos of a rendered set. Raises UserError where not all are there."""
    images, scenes = _images(read_manifest(set_name)), scenes_of(params, set_name)
    if len(images) != len(scenes):
        raise UserError(
            f"{paths.manifest(set_name)} lists {len(images)} images, {len(scenes)} were drawn: run `dvc repro`"
        )
    return simulate(scenes, images, _settings(params), seed)


def _settings(params: Params) -> BrainSettings:
    demo = params.demo
    return BrainSettings(
        high_rois=demo.high_rois,
        reliability=demo.reliability,
        repeats=demo.repeats,
        early_vertices=demo.vertices.early,
        high_vertices=demo.vertices.high,
        rest_vertices=demo.vertices.rest,
    )


def _images(manifest: Manifest) -> Array:
    """The drawn images of a set, I H W 3 uint8, in the manifest's order."""
    return np.stack([np.asarray(Image.open(file)) for file in manifest.image_files()])
