"""Collect the scores of all sets into metrics/classification.json."""

from neuralood.stage import run
from neuralood.summary import summarize

if __name__ == "__main__":
    run(summarize)
