"""Train the brain encoder, patch tokens of the NSD images -> their fMRI; or take over an imported one."""

from neuralood.config import Params
from neuralood.launch import launch
from neuralood.stage import run


def main(params: Params) -> None:
    """Tokens and fMRI of nsd, or the encoder that is imported -> data/models/encoder, metrics/encoder.*."""
    if params.fmri.source == "imported":
        from neuralood.encoder.imported import adopt_imported

        adopt_imported(params)
    else:
        from neuralood.encoder.train import train_encoder

        train_encoder(params)


if __name__ == "__main__":
    run(main, launch)
