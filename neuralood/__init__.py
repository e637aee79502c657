"""Brain-machine fusion learning (BMFL): does knowledge from the visual cortex help classifiers out of distribution?"""
