"""Train the brain encoder: patch tokens of the NSD images -> their fMRI."""

from neuralood.encoder.train import train_encoder
from neuralood.stage import run

if __name__ == "__main__":
    run(train_encoder)
