"""Collect the scores of the brain encoder out of distribution into metrics/encoder_ood.json."""

from neuralood.stage import run
from neuralood.summary import summarize_encoder

if __name__ == "__main__":
    run(summarize_encoder)
