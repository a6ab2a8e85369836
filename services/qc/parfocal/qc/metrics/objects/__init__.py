"""Metrics of label images and masks."""
