"""Lists an encoder that was trained elsewhere, in the place of fMRI and its images."""

from neuralood.config import Params
from neuralood.encoder.imported import index_imported
from neuralood.stage import run


def main(params: Params, subject: str) -> None:
    """The folder of fmri.imported.SUBJECT, the only entry there -> data/manifests/fmri.json, and no nsd images."""
    index_imported(params)


if __name__ == "__main__":
    run(main)
