"""Find which of the 16 categories that people chose among the training classes make up."""

from neuralood.base import console, paths
from neuralood.base.records import write_json
from neuralood.config import Params
from neuralood.data.imagenet.categories import CATEGORIES, category_members
from neuralood.data.manifest import read_manifest
from neuralood.stage import run


def main(params: Params) -> None:
    """data/manifests/train.json -> data/humans/categories.json: indices of the classes of each category."""
    members = category_members(read_manifest("train").classes)
    write_json(paths.CATEGORIES, dict(members), compact=True)
    console.wrote(paths.CATEGORIES, f"training classes make up {len(members)} of {len(CATEGORIES)} categories")


if __name__ == "__main__":
    run(main)
