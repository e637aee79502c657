"""Fusion and its evaluation as one stage that several processes share: `-m helpers_ranks_training SET`.

Where a file `fault` lies in the project's folder, the second process is killed in the second epoch.
"""

from pathlib import Path
from unittest import mock

from helpers_tokens import kill_self

from neuralood.base import ranks
from neuralood.evaluation import evaluate
from neuralood.fusion import train as training
from neuralood.fusion.loss import fusion_loss
from neuralood.launch import launch
from neuralood.stage import run

FAULT = Path("fault")
calls = []


def failing_loss(*arguments):
    """As it is, until it is called for the tenth time."""
    calls.append(1)
    if FAULT.exists() and ranks.rank() == 1 and len(calls) == 10:
        kill_self()
    return fusion_loss(*arguments)


def main(params, set_name):
    """Train, then predict SET."""
    with mock.patch.object(training, "fusion_loss", failing_loss):
        training.train_fusion(params)
    evaluate(params, set_name)


if __name__ == "__main__":
    run(main, launch)
