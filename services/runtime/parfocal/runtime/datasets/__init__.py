"""Datasets: pairs of images, and what is found when they are checked."""
