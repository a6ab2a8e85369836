"""Metrics, one module per task: pure functions that take and return numpy arrays and frozen dataclasses.

A new task is a new module here; it knows nothing of files, stores or jobs.
"""
