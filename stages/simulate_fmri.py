"""Simulate the fMRI of a subject that looks at the rendered nsd images."""

from neuralood.demo.subject import simulate_subject
from neuralood.stage import run

if __name__ == "__main__":
    run(simulate_subject)
