"""Formats that services do not read: read on the way into the store, and written on the way out of it."""
