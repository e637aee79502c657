"""ImageNet-1k and the public out-of-distribution sets built on it."""
