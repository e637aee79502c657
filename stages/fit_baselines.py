"""Fit the baselines of the brain encoder, ridge and others, to the measured fMRI."""

from neuralood.base import console, paths
from neuralood.config import Params
from neuralood.stage import run


def main(params: Params) -> None:
    """Tokens and fMRI of nsd -> data/encoder_baselines.zarr; an imported encoder comes with its scores."""
    if params.fmri.source == "imported":
        console.note("nothing to do: the encoder is imported")
        paths.ENCODER_BASELINES.mkdir(parents=True, exist_ok=True)
    else:
        from neuralood.encoder.baselines.every import fit_baselines

        fit_baselines(params)


if __name__ == "__main__":
    run(main)
