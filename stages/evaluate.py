"""Predict the classes of one image set with both models, and score them."""

from neuralood.base import paths
from neuralood.config import Params
from neuralood.launch import launch
from neuralood.stage import has_role, run


def main(params: Params, set_name: str) -> None:
    """Models, tokens and predicted fMRI of SET -> data/eval/SET/; nsd has no labels, train is no test."""
    if has_role(params, set_name, ("val", "ood"), paths.evaluation(set_name)):
        from neuralood.evaluation import evaluate  # torch takes seconds to import

        evaluate(params, set_name)


if __name__ == "__main__":
    run(main, launch)
