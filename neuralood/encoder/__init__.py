"""The brain encoder: patch tokens to predicted fMRI."""
