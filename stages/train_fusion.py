"""Train the fusion classifier and the linear probe on the train set."""

from neuralood.fusion.train import train_fusion
from neuralood.launch import launch
from neuralood.stage import run

if __name__ == "__main__":
    run(train_fusion, launch)
