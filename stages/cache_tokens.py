"""Cache the frozen backbone's tokens of one image set."""

from dataclasses import asdict

from neuralood.backbone import load_backbone
from neuralood.base import console, paths
from neuralood.base.device import prepare_torch
from neuralood.config import Params
from neuralood.data.manifest import read_manifest
from neuralood.launch import launch
from neuralood.stage import run
from neuralood.tokens.cache import cache_tokens


def main(params: Params, set_name: str) -> None:
    """data/manifests/SET.json -> data/tokens/SET.zarr."""
    device = prepare_torch(params.runtime.device, params.runtime.threads)
    manifest = read_manifest(set_name)
    backbone = load_backbone(**asdict(params.backbone), data_root=paths.data_root())
    store = cache_tokens(manifest, params.backbone.name, backbone, params.cache, device, params.runtime.workers)
    console.wrote(store, f"tokens of {len(manifest)} images, {backbone.shape.patches} patches each")


if __name__ == "__main__":
    run(main, launch)
