"""Brings measured fMRI of any source into the one store that training reads."""

from neuralood.base import paths
from neuralood.base.console import note, wrote
from neuralood.base.records import write_json
from neuralood.config import Params
from neuralood.data.fmri import prepare_fmri, read_measured
from neuralood.stage import run


def main(params: Params) -> None:
    """data/fmri/measured.zarr from the lists of fMRI and nsd images; empty where the encoder is imported.

    data/fmri/more/ says beside whom the further subjects stand.
    """
    write_json(paths.MORE_FIRST, {"subject": params.fmri.subject})
    if params.fmri.source == "imported":
        note("nothing to do: the encoder is imported, so that no fMRI is read")
        paths.MEASURED.mkdir(parents=True, exist_ok=True)
        return
    prepare_fmri(params)
    n_images, n_vertices = read_measured().fmri.shape
    wrote(paths.MEASURED, f"{n_images} images x {n_vertices} vertices")


if __name__ == "__main__":
    run(main)
