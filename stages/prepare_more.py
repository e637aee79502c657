"""Brings the fMRI of a further subject, measured or simulated, into a store for training."""

from pathlib import Path
from tempfile import TemporaryDirectory

from neuralood.base import paths
from neuralood.base.console import wrote
from neuralood.config import Params
from neuralood.data.fmri import prepare_more, read_measured
from neuralood.demo.subject import simulate_more
from neuralood.stage import run


def main(params: Params, subject: str) -> None:
    """The fMRI of encoder.more_subjects.SUBJECT, and the list of its images -> data/fmri/more/SUBJECT.zarr."""
    path = params.encoder.more_subjects[subject].path
    if path is None:
        with TemporaryDirectory() as folder:
            simulate_more(params, subject, Path(folder))
            prepare_more(params, subject, Path(folder))
    else:
        prepare_more(params, subject, paths.data_root() / path)
    n_images, n_vertices = read_measured(paths.more_measured(subject)).fmri.shape
    what = "SIMULATED fMRI" if path is None else "fMRI"
    wrote(paths.more_measured(subject), f"{what} of {n_images} images x {n_vertices} vertices")


if __name__ == "__main__":
    run(main)
