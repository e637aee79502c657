"""Compare the answers of both models to one set of stimuli with those of people."""

from neuralood.humans.alignment import compare_humans
from neuralood.stage import run

if __name__ == "__main__":
    run(compare_humans)
