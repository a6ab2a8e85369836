"""Training: patches of a dataset, the loop over them, and its report."""
