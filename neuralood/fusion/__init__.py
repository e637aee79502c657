"""Fusion of image tokens and predicted fMRI, and the linear probe that it has to beat."""
