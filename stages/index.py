"""Lists one set of the user's images into its manifest."""

from neuralood.base.console import wrote
from neuralood.config import Params
from neuralood.data.index import index_set
from neuralood.data.manifest import write_manifest
from neuralood.stage import run


def main(params: Params, set_name: str) -> None:
    """data/manifests/SET.json from the folder of files.SET."""
    manifest = index_set(set_name, params)
    wrote(write_manifest(manifest), f"{len(manifest)} images, {len(manifest.classes)} classes")


if __name__ == "__main__":
    run(main)
