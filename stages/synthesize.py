"""Predict the fMRI of one image set with the frozen brain encoder."""

from neuralood.base import paths
from neuralood.config import Params
from neuralood.launch import launch
from neuralood.stage import has_role, run


def main(params: Params, set_name: str) -> None:
    """data/tokens/SET.zarr -> data/fmri/SET.zarr; nsd was measured and gets none."""
    if has_role(params, set_name, ("train", "val", "ood", "probe"), paths.predicted_fmri(set_name)):
        from neuralood.synthesis import synthesize  # torch takes seconds to import

        synthesize(params, set_name)


if __name__ == "__main__":
    run(main, launch)
