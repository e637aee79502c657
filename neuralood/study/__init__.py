"""Is the gain from the brain? The grid of ablations and controls, and what follows from it."""
