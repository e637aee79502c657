"""Draws a made OOD set from the images of another set."""

from neuralood.base import paths
from neuralood.base.console import wrote
from neuralood.config import Params
from neuralood.data.made.sets import make_set
from neuralood.data.manifest import write_manifest
from neuralood.stage import run


def main(params: Params, set_name: str) -> None:
    """data/made/SET/ and its manifest from the source of made.SET."""
    manifest = make_set(set_name, params)
    write_manifest(manifest)
    wrote(paths.made(set_name), f"{params.made[set_name].transform} of {len(manifest)} images")


if __name__ == "__main__":
    run(main)
