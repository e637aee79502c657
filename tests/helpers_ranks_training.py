"""Fusion and its evaluation as one stage that several processes share: `-m helpers_ranks_training SET`."""

from neuralood.evaluation import evaluate
from neuralood.fusion.train import train_fusion
from neuralood.launch import launch
from neuralood.stage import run


def main(params, set_name):
    """Train, then predict SET."""
    train_fusion(params)
    evaluate(params, set_name)


if __name__ == "__main__":
    run(main, launch)
