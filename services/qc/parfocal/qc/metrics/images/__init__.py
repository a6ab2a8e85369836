"""Metrics of images against their targets, and of residuals."""
