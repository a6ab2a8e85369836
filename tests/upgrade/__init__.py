"""Upgrade and rollback of a service beside running jobs; see `python -m upgrade --help`."""
