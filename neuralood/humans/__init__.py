"""How people answer to the same images, trial by trial, and how much like them a classifier answers."""
