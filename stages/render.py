"""Draw one image set of the demo."""

from neuralood.demo.drawing import render_set
from neuralood.stage import run

if __name__ == "__main__":
    run(render_set)
