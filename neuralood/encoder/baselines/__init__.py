"""What a brain encoder is compared with: simpler models of the same tokens, fitted to the same fMRI."""
