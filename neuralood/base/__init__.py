"""What every part stands on: errors, paths, console, records, seeds, stores, and the training loop."""
