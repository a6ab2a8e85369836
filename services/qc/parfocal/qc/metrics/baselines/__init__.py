"""Baselines of predictions, chosen on training or validation images."""
