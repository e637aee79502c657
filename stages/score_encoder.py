"""Score the frozen brain encoder on one set of images that the person also saw, in other styles."""

from neuralood.base import paths
from neuralood.config import Params
from neuralood.stage import has_role, run


def main(params: Params, set_name: str) -> None:
    """Tokens and fMRI of SET -> data/encoder_ood/SET/; no other role has fMRI out of distribution."""
    if has_role(params, set_name, ("fmri_ood",), paths.encoder_ood(set_name)):
        from neuralood.generalisation import score_encoder  # torch takes seconds to import

        score_encoder(params, set_name)


if __name__ == "__main__":
    run(main)
