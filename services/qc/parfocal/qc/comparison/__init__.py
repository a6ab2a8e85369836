"""Comparisons of evaluations of the same test images: which difference is more than chance."""
