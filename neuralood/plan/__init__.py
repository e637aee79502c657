"""What a run will take, before it runs: sizes of all stores, free disk, and time a stage."""
