"""Made out-of-distribution sets: a labelled set redrawn."""
