"""The demo's images: each rendered set of params.yaml, drawn to files."""

import shutil
from collections.abc import Iterable
from typing import Literal, TypeVar

import numpy as np

from neuralood.base import console, paths
from neuralood.base.seeding import derived_seed
from neuralood.config import Params
from neuralood.data.fmri import TEST, draw_split
from neuralood.data.index import rendered_manifest
from neuralood.data.manifest import write_manifest
from neuralood.demo.render import RESTYLES, render_labelled, render_nsd, render_restyled
from neuralood.demo.scenes import Scene, draw_scenes

T = TypeVar("T")


def render_set(params: Params, set_name: str) -> None:
    """Draw one set: data/demo/SET/ and its manifest."""
    entry, folder = params.rendered[set_name], paths.rendered(set_name)
    shutil.rmtree(folder, ignore_errors=True)
    scenes = scenes_of(params, set_name)

    def track(items: Iterable[T]) -> Iterable[T]:
        return console.track(items, f"drawing {set_name}", count_drawn(params, set_name))

    if entry.scenes == "nsd":
        render_nsd(scenes, folder, track)
    elif entry.scenes == "nsd_test":
        render_restyled({row: scenes[row] for row in _held_out(params, set_name)}, folder, track)
    else:
        render_labelled(scenes, entry.style, folder, track)
    manifest = rendered_manifest(set_name, params)
    console.wrote(write_manifest(manifest), f"{len(manifest)} simulated images, style {entry.style}")


def scenes_of(params: Params, set_name: str) -> list[Scene]:
    """The scenes of a rendered set; sets of the same scenes in several styles share them, while each simulated subject
    looks at scenes of its own."""
    entry = params.rendered[set_name]
    of_nsd = entry.scenes in ("nsd", "nsd_test")
    kind: Literal["nsd", "labelled"] = "nsd" if of_nsd else "labelled"
    name = {"nsd": set_name, "nsd_test": "nsd"}.get(entry.scenes, entry.scenes)
    return draw_scenes(kind, entry.n, derived_seed(params.seed, "scenes", name), params.demo.confound)


def count_drawn(params: Params, set_name: str) -> int:
    """Images of a rendered set: one a scene, or each scene that fMRI holds out in each of RESTYLES."""
    entry = params.rendered[set_name]
    return len(RESTYLES) * len(_held_out(params, set_name)) if entry.scenes == "nsd_test" else entry.n


def _held_out(params: Params, set_name: str) -> list[int]:
    """The scenes on whose photos no encoder is trained, nor chosen: the test part of the simulated fMRI."""
    split = draw_split(params.rendered[set_name].n, params.fmri.validation, params.fmri.test, params.seed)
    return np.flatnonzero(split == TEST).tolist()
