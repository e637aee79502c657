"""Records the files, shapes and fingerprint of the user's fMRI."""

from neuralood.base import paths
from neuralood.base.console import wrote
from neuralood.base.records import write_json
from neuralood.config import Params
from neuralood.data.fmri import index_fmri
from neuralood.stage import run


def main(params: Params, subject: str) -> None:
    """data/manifests/fmri.json from the folder of fmri.files.SUBJECT, the only entry there."""
    record = index_fmri(params)
    write_json(paths.FMRI_MANIFEST, record)
    n_images = record["shapes"]["lh"][0]
    wrote(paths.FMRI_MANIFEST, f"{n_images} images of {subject}")


if __name__ == "__main__":
    run(main)
