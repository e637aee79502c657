"""Compare what the models make of one set's images with what people's brains do."""

from neuralood.config import Params
from neuralood.stage import run


def main(params: Params, set_name: str) -> None:
    """Models, tokens and predicted fMRI of SET, and people's dissimilarities -> data/eval/_geometry/SET/."""
    from neuralood.geometry.compare import compare_geometry  # torch takes seconds to import

    compare_geometry(params, set_name)


if __name__ == "__main__":
    run(main)
