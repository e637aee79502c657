"""The demo's images: each rendered set of params.yaml, drawn to files."""

import shutil
from collections.abc import Iterable
from typing import Literal, TypeVar

from neuralood.base import console, paths
from neuralood.base.seeding import derived_seed
from neuralood.config import Params
from neuralood.data.index import rendered_manifest
from neuralood.data.manifest import write_manifest
from neuralood.demo.render import render_labelled, render_nsd
from neuralood.demo.scenes import Scene, draw_scenes

T = TypeVar("T")


def render_set(params: Params, set_name: str) -> None:
    """Draw one set: data/demo/SET/ and its manifest."""
    entry, folder = params.rendered[set_name], paths.rendered(set_name)
    shutil.rmtree(folder, ignore_errors=True)
    scenes = scenes_of(params, set_name)

    def track(items: Iterable[T]) -> Iterable[T]:
        return console.track(items, f"drawing {set_name}", len(scenes))

    if entry.scenes == "nsd":
        render_nsd(scenes, folder, track)
    else:
        render_labelled(scenes, entry.style, folder, track)
    manifest = rendered_manifest(set_name, params)
    console.wrote(write_manifest(manifest), f"{len(manifest)} simulated images, style {entry.style}")


def scenes_of(params: Params, set_name: str) -> list[Scene]:
    """The scenes of a rendered set; sets of the same scenes in several styles share them."""
    entry = params.rendered[set_name]
    kind: Literal["nsd", "labelled"] = "nsd" if entry.scenes == "nsd" else "labelled"
    return draw_scenes(kind, entry.n, derived_seed(params.seed, "scenes", entry.scenes), params.demo.confound)
